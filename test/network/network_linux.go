package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// envInside marks the process that Own started.
const envInside = "WTS_TEST_OWN_NETWORK"

// Own runs the calling test once more, alone and with the same flags, in a process whose network is a
// namespace of its own, and returns true there. In the test itself it returns false when that process has
// ended, and the test with it. The machine's network is not touched, and nothing is left of the namespace.
func Own(t *testing.T) bool {
	t.Helper()
	if os.Getenv(envInside) != "" {
		return true
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Fatal("this test needs network namespaces: the program ip is not here; install the package iproute2")
	}
	// The log of what a test opens is the parent's; later flags win over earlier ones.
	flags := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(flag string) bool { return strings.HasPrefix(flag, "-test.testlogfile") })
	inside := exec.Command(os.Args[0], append(flags, "-test.run=^"+t.Name()+"$", "-test.v=true")...)
	inside.Env = append(os.Environ(), envInside+"=1")
	inside.Stdout, inside.Stderr = os.Stdout, os.Stderr
	inside.SysProcAttr = namespace()
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends
	defer runtime.UnlockOSThread()
	err := inside.Start()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("this test needs network namespaces, and the kernel refuses one (%v): run it as root with CAP_SYS_ADMIN "+
			"(in a container: privileged), or let ordinary users have user namespaces (sysctl user.max_user_namespaces, "+
			"kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)", err)
	}
	if err == nil {
		err = inside.Wait()
	}
	if err != nil {
		t.Fatalf("in a network of its own: %v", err)
	}
	return false
}

// namespace is what a process is started with that gets a network namespace. An ordinary user needs a user
// namespace around it, in which the user stays who they are and may configure the network.
func namespace() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		attributes.Cloneflags |= unix.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		attributes.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	}
	return attributes
}

// Host is a namespace that is joined to the test's own by three paths.
type Host struct {
	// Address is where workers reach it.
	Address string

	at        int
	namespace *os.File
}

// Hosts makes hosts, in the process that Own started.
func Hosts(t testing.TB, count int) (hosts []*Host) {
	t.Helper()
	run(t, nil, "link set lo up", "address add "+Provider+"/32 dev lo", "address add "+Database+"/32 dev lo", "route add local "+workers+" dev lo")
	for i := range count {
		h := &Host{at: i, Address: address(i, ToWorkers)}
		var err error
		if h.namespace, err = newNamespace(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = h.namespace.Close() })
		far := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.namespace.Fd())
		run(t, h, "link set lo up")
		for path, theirs := range map[Path]string{ToProvider: Provider, ToDatabase: Database, ToWorkers: caller} {
			near, own := h.near(path), address(i, path)
			run(t, nil,
				fmt.Sprintf("link add %s address %s type veth peer name %s address %s netns %s", near, hardware(i, path, 'n'), path, hardware(i, path, 'f'), far),
				"link set "+near+" up", "neighbour add "+own+" lladdr "+hardware(i, path, 'f')+" nud permanent dev "+near,
				"route add "+own+"/32 dev "+near+" src "+theirs)
			run(t, h, "address add "+own+"/32 dev "+path.String(), "link set "+path.String()+" up",
				"neighbour add "+theirs+" lladdr "+hardware(i, path, 'n')+" nud permanent dev "+path.String(),
				"route add "+theirs+"/32 dev "+path.String()+" src "+own)
		}
		run(t, h, "route add "+workers+" via "+caller+" dev "+ToWorkers.String()+" onlink src "+h.Address)
		hosts = append(hosts, h)
	}
	return hosts
}

func newNamespace() (namespace *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("a network namespace: %w", err)
		}
		namespace, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return namespace, err
}

// onThread runs a function on a thread of its own, which ends with it.
func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// Within runs a function on the host: what it listens on, dials or starts is there. A nil host is the test's
// own end.
func (h *Host) Within(do func() error) error {
	if h == nil {
		return do()
	}
	return onThread(func() error {
		if err := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering a network namespace: %w", err)
		}
		return do()
	})
}

// Drop has a path drop packets, silently, until Heal: they are addressed to a machine that is not there, as a
// switch does whose table is wrong.
func (h *Host) Drop(path Path, way Way) error {
	var there, back error
	if way != Back {
		there = h.deliver(path, There, 'x')
	}
	if way != There {
		back = h.deliver(path, Back, 'x')
	}
	return errors.Join(there, back)
}

// Heal lets a path's packets through again.
func (h *Host) Heal(path Path) error {
	return errors.Join(h.deliver(path, There, 'n'), h.deliver(path, Back, 'f'))
}

// deliver says which end of a path gets the packets that go one way.
func (h *Host) deliver(path Path, way Way, end byte) error {
	command := "neighbour replace %s lladdr " + hardware(h.at, path, end) + " nud permanent dev %s"
	if way == There {
		theirs := map[Path]string{ToProvider: Provider, ToDatabase: Database, ToWorkers: caller}[path]
		return configure(h, fmt.Sprintf(command, theirs, path))
	}
	return configure(nil, fmt.Sprintf(command, address(h.at, path), h.near(path)))
}

// near is the name of a path's device at the test's own end.
func (h *Host) near(path Path) string { return fmt.Sprintf("%s%d", path, h.at) }

// hardware is the address of a path's near or far end, or of a machine that does not exist.
func hardware(host int, path Path, end byte) string {
	return fmt.Sprintf("02:77:00:%02x:%02x:%02x", host, int(path), end)
}

func run(t testing.TB, on *Host, commands ...string) {
	t.Helper()
	if err := configure(on, commands...); err != nil {
		t.Fatal(err)
	}
}

// configure runs commands of ip(8) on a host, or at the test's own end.
func configure(on *Host, commands ...string) error {
	return on.Within(func() error {
		ip := exec.Command("ip", "-batch", "-")
		ip.Stdin = strings.NewReader(strings.Join(commands, "\n"))
		if output, err := ip.CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w\n%s", strings.Join(commands, "; "), err, output)
		}
		return nil
	})
}
