// Package network gives a test a network of its own, inside network namespaces of the kernel's: hosts whose
// paths to the provider, to the database and to the workers can drop packets, each by itself. Neither end
// of a connection notices that packets are dropped, and the kernel sends them again until they arrive.
//
//	test's namespace (Own)                          namespace of host 1
//	  provider 10.77.1.1  ---- veth pair ----------  10.77.11.1
//	  database 10.77.1.2  ---- veth pair ----------  10.77.11.2
//	  workers  10.78.x.y  ---- veth pair ----------  10.77.11.3 (wts)
package network

import "fmt"

// The addresses of the test's own end.
const (
	Provider = "10.77.1.1"
	Database = "10.77.1.2"
	// caller is where the test itself calls hosts from.
	caller  = "10.78.255.1"
	workers = "10.78.0.0/16"
)

// Worker is the address of a worker, by its number.
func Worker(at int) string { return fmt.Sprintf("10.78.%d.%d", at/250, at%250+1) }

// Path is one of the three by which a host is reached.
type Path int

// The paths.
const (
	ToProvider Path = iota + 1
	ToDatabase
	ToWorkers
)

func (p Path) String() string { return [...]string{"", "provider", "database", "workers"}[p] }

// Way is the direction in which a path drops packets.
type Way int

// The ways.
const (
	Both  Way = iota
	There     // what the host sends
	Back      // what is sent to it
)

func (w Way) String() string {
	return [...]string{"both ways", "what it sends", "what is sent to it"}[w]
}

// address is a host's own on a path.
func address(host int, path Path) string { return fmt.Sprintf("10.77.%d.%d", 11+host, path) }

// HostOf is the number of the host that an address belongs to; false where it is none's.
func HostOf(address string) (at int, ok bool) {
	var path Path
	if _, err := fmt.Sscanf(address, "10.77.%d.%d", &at, &path); err != nil || at < 11 {
		return 0, false
	}
	return at - 11, true
}
