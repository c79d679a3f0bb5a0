package kube

import (
	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// field is one of a message's: bytes, or a number.
type field struct {
	number int
	bytes  []byte
	value  uint64
}

func (f field) text() string { return string(f.bytes) }

// eachField gives every field of a message to take.
func eachField(raw []byte, take func(field) error) error {
	for len(raw) > 0 {
		number, kind, head := protowire.ConsumeTag(raw)
		if head < 0 {
			return protowire.ParseError(head)
		}
		raw = raw[head:]
		one := field{number: int(number)}
		var size int
		switch kind {
		case protowire.BytesType:
			one.bytes, size = protowire.ConsumeBytes(raw)
		case protowire.VarintType:
			one.value, size = protowire.ConsumeVarint(raw)
		default:
			size = protowire.ConsumeFieldValue(number, kind, raw)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		if err := take(one); err != nil {
			return err
		}
		raw = raw[size:]
	}
	return nil
}

// readPod reads what Cluster.read takes out of a pod, and no more.
func readPod(raw []byte, of *corev1.Pod) error {
	return eachField(raw, func(part field) error {
		switch part.number {
		case 1:
			return eachField(part.bytes, func(one field) error { return readMetadata(one, &of.ObjectMeta) })
		case 2:
			return eachField(part.bytes, func(one field) error { return readSpec(one, &of.Spec) })
		case 3:
			return eachField(part.bytes, func(one field) error { return readStatus(one, &of.Status) })
		}
		return nil
	})
}

func readMetadata(one field, of *metav1.ObjectMeta) error {
	switch one.number {
	case 1:
		of.Name = one.text()
	case 3:
		of.Namespace = one.text()
	case 5:
		of.UID = types.UID(one.text())
	case 9:
		of.DeletionTimestamp = &metav1.Time{} // that there is one is what counts
	case 12:
		if of.Annotations == nil {
			of.Annotations = map[string]string{}
		}
		var key, value string
		err := eachField(one.bytes, func(half field) error {
			switch half.number {
			case 1:
				key = half.text()
			case 2:
				value = half.text()
			}
			return nil
		})
		of.Annotations[key] = value
		return err
	}
	return nil
}

func readSpec(one field, of *corev1.PodSpec) error {
	switch one.number {
	case 8:
		of.ServiceAccountName = one.text()
	case 11:
		of.HostNetwork = one.value != 0
	}
	return nil
}

func readStatus(one field, of *corev1.PodStatus) error {
	switch one.number {
	case 1:
		of.Phase = corev1.PodPhase(one.text())
	case 5:
		of.HostIP = one.text()
	case 6:
		of.PodIP = one.text()
	case 12:
		return eachField(one.bytes, func(ip field) error {
			if ip.number == 1 {
				of.PodIPs = append(of.PodIPs, corev1.PodIP{IP: ip.text()})
			}
			return nil
		})
	case 16:
		return eachField(one.bytes, func(ip field) error {
			if ip.number == 1 {
				of.HostIPs = append(of.HostIPs, corev1.HostIP{IP: ip.text()})
			}
			return nil
		})
	}
	return nil
}
