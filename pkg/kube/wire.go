package kube

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// A list of all pods is many megabytes, of which a few fields of each pod are needed. It is asked for in
// protobuf, read as it comes in, one pod at a time, and what is not needed is passed over: that takes a
// small part of the time and memory that decoding the whole takes. The numbers of the fields are those of
// the API's published generated.proto, which never change.
const podFormats = "application/vnd.kubernetes.protobuf, application/json;q=0.5"

// What the API server sends is bounded. JSON, which it sends only where a proxy insists on it, is held
// in memory as a whole; of protobuf, one pod is.
const (
	maxListBytes = 512 << 20
	maxJSONBytes = 64 << 20
	maxPodBytes  = 8 << 20
)

var (
	protobufMagic = []byte("k8s\x00")
	errTooLong    = errors.New("the list of pods is longer than wts takes")
	errNotWhole   = errors.New("the list of pods is not whole")
)

// readPods reads a list of pods to its end and gives each to visit, which must not keep it. An error means
// that the list is not to be used.
func readPods(body io.Reader, visit func(*corev1.Pod)) error {
	in := bufio.NewReaderSize(body, 64<<10)
	if magic, err := in.Peek(len(protobufMagic)); err != nil || !bytes.Equal(magic, protobufMagic) {
		return readJSONPods(in, visit)
	}
	_, _ = in.Discard(len(protobufMagic))
	envelope := message{in: in, left: maxListBytes}
	for { // runtime.Unknown: 1 names the type, 2 is the object
		number, size, err := envelope.next()
		switch {
		case err != nil:
			return notWhole(err)
		case number == 1:
			err = envelope.kind(size)
		case number == 2:
			if err := (&message{in: in, left: size}).pods(visit); err != nil {
				return notWhole(err)
			}
			_, err = io.Copy(io.Discard, io.LimitReader(in, maxPodBytes)) // to its end: the connection is used again
			return notWhole(err)
		default:
			err = envelope.skip(size)
		}
		if err != nil {
			return notWhole(err)
		}
	}
}

// notWhole tells an end before the end.
func notWhole(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errNotWhole
	}
	return err
}

// readJSONPods reads a list from an API server that knows no protobuf, which are few: the whole list is in memory.
func readJSONPods(in io.Reader, visit func(*corev1.Pod)) error {
	text, err := io.ReadAll(io.LimitReader(in, maxJSONBytes+1))
	if err != nil {
		return err
	}
	if len(text) > maxJSONBytes {
		return errTooLong
	}
	var list corev1.PodList
	if err := json.Unmarshal(text, &list); err != nil || list.Kind != "PodList" || list.Continue != "" {
		return errNotWhole
	}
	for i := range list.Items {
		visit(&list.Items[i])
	}
	return nil
}

// message is a protobuf message that is read from a stream, of so many bytes.
type message struct {
	in   *bufio.Reader
	left int64
	held []byte // what bytes returned last
}

// ReadByte implements io.ByteReader.
func (m *message) ReadByte() (byte, error) {
	if m.left <= 0 {
		return 0, io.EOF
	}
	m.left--
	return m.in.ReadByte()
}

// next reads the head of a field. Those that are needed are all of bytes; a number is passed over, as a
// field of no bytes.
func (m *message) next() (number protowire.Number, size int64, err error) {
	tag, err := binary.ReadUvarint(m)
	if err != nil {
		return 0, 0, err
	}
	number, kind := protowire.DecodeTag(tag)
	value := uint64(0)
	switch kind {
	case protowire.BytesType:
		value, err = binary.ReadUvarint(m)
	case protowire.VarintType:
		_, err = binary.ReadUvarint(m)
		number = 0
	default:
		err = fmt.Errorf("a field of an unexpected kind %d", kind)
	}
	if err == nil && value > uint64(m.left) { //nolint:gosec // never negative
		err = errTooLong
	}
	return number, int64(value), err
}

// skip passes over a field without holding it: most of a pod is of no use here.
func (m *message) skip(size int64) error {
	m.left -= size
	for size > 0 { // Discard takes an int
		step := min(size, 1<<20)
		if _, err := m.in.Discard(int(step)); err != nil {
			return err
		}
		size -= step
	}
	return nil
}

// bytes reads a field's value, which holds until the next call.
func (m *message) bytes(size int64) ([]byte, error) {
	if size > maxPodBytes {
		return nil, errTooLong
	}
	if int64(cap(m.held)) < size {
		m.held = make([]byte, size)
	}
	m.held = m.held[:size]
	m.left -= size
	_, err := io.ReadFull(m.in, m.held)
	return m.held, err
}

// kind wants a list of pods: an error of the API server comes in the same envelope, as a Status.
func (m *message) kind(size int64) error {
	raw, err := m.bytes(size)
	if err != nil {
		return err
	}
	var of runtime.TypeMeta
	if err := of.Unmarshal(raw); err != nil || of.Kind != "PodList" {
		return fmt.Errorf("the API server sent a %q for a list of pods", of.Kind)
	}
	return nil
}

// pods reads a PodList: 1 is its metadata, 2 a pod.
func (m *message) pods(visit func(*corev1.Pod)) error {
	for m.left > 0 {
		number, size, err := m.next()
		if err != nil {
			return err
		}
		if number != 1 && number != 2 {
			if err := m.skip(size); err != nil {
				return err
			}
			continue
		}
		raw, err := m.bytes(size)
		if err != nil {
			return err
		}
		if number == 1 {
			var of metav1.ListMeta
			if err := of.Unmarshal(raw); err != nil || of.Continue != "" {
				return errNotWhole
			}
			continue
		}
		var of corev1.Pod
		if err := readPod(raw, &of); err != nil {
			return err
		}
		visit(&of)
	}
	return nil
}
