//go:build torture

package network_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/network"
)

// What the torture relies on is itself tested: a path that drops packets breaks no connection and tells
// neither end, what was written meanwhile arrives when it heals, and the other paths go on.
func TestAPathDropsAndHeals(t *testing.T) {
	if !network.Own(t) {
		return
	}
	host := network.Hosts(t, 2)[1]
	for path, near := range map[network.Path]string{network.ToProvider: network.Provider, network.ToDatabase: network.Database} {
		t.Run(fmt.Sprint(path), func(t *testing.T) {
			listener, err := net.Listen("tcp", near+":0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			arrived := make(chan string, 10)
			go func() {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				arrived <- connection.RemoteAddr().String()
				buffer := make([]byte, 10)
				for {
					length, err := connection.Read(buffer)
					if err != nil {
						return
					}
					arrived <- string(buffer[:length])
				}
			}()
			var far net.Conn
			if err := host.Within(func() (err error) {
				far, err = net.DialTimeout("tcp", listener.Addr().String(), 5*time.Second)
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer far.Close()
			if at, ok := network.HostOf(<-arrived); !ok || at != 1 {
				t.Errorf("it came from another host")
			}
			for _, way := range []network.Way{network.Both, network.There, network.Back} {
				if err := host.Drop(path, way); err != nil {
					t.Fatal(err)
				}
				if _, err := far.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				select {
				case <-arrived:
					if way != network.Back {
						t.Errorf("%s, %s: it arrived", path, way)
					}
				case <-time.After(500 * time.Millisecond):
					if way == network.Back {
						t.Errorf("%s, %s: it did not arrive", path, way)
					}
				}
				if err := host.Heal(path); err != nil {
					t.Fatal(err)
				}
				if way != network.Back {
					select {
					case <-arrived:
					case <-time.After(5 * time.Second):
						t.Fatalf("%s, %s: it never arrived", path, way)
					}
				}
			}
		})
	}
}
