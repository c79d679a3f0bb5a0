package system

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
	"github.com/workspace-token-service/wts/test/instance"
)

// Rule F2: 2,000 peers with unfinished heads of 1 byte to 64 KiB stay within the memory that the chart
// allows, and a worker is answered meanwhile. A head of 60 KiB is answered as well.
func TestExactUnfinishedHeadsAreBounded(t *testing.T) {
	const peers, most = 2000, 384 // MiB
	r := deployment.New(t, deployment.Setup{People: 1, Replicas: 1, Life: time.Hour, Rate: 10})
	r.Connect(t, r.Names[0], time.Hour, false)
	wts := r.WTS[0]
	worker := r.Worker(0)
	worker.Transport.(*http.Transport).DisableKeepAlives = true

	stop := make(chan struct{})
	var attacking sync.WaitGroup
	for peer := range peers {
		attacking.Go(func() {
			dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 2, byte(peer/250), byte(peer%250+1))}, Timeout: 5 * time.Second}
			size := 1 + peer*(64<<10)/peers
			if peer%4 == 0 {
				size = 64 << 10
			}
			for {
				connection, err := dialer.Dial("tcp", wts.Address)
				if err == nil {
					_ = connection.SetDeadline(time.Now().Add(10 * time.Second))
					_, _ = connection.Write(append([]byte("GET /token/ HTTP/1.1\r\nHost: x\r\nX: "), bytes.Repeat([]byte("a"), size)...))
				}
				select {
				case <-stop:
				case <-time.After(3 * time.Second): // and again
				}
				if err == nil {
					_ = connection.Close()
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	allowed := 5 * time.Second
	if instance.Race { // which takes a multiple of the time, and other packages' tests run beside it
		allowed = 20 * time.Second
	}
	var slowest time.Duration
	for began, asked := time.Now(), 0; time.Since(began) < 8*time.Second; asked++ {
		sent := time.Now()
		if answer := wts.Token(t, worker, ""); answer.Status != http.StatusOK || time.Since(sent) > allowed {
			t.Errorf("call %d of the worker: %d after %s", asked, answer.Status, time.Since(sent))
		}
		slowest = max(slowest, time.Since(sent))
		time.Sleep(100 * time.Millisecond)
	}
	ask := func(size, status int) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+wts.Address+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X", strings.Repeat("a", size))
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Errorf("a head of %d bytes: %v", size, err)
			return
		}
		_ = response.Body.Close()
		if response.StatusCode != status {
			t.Errorf("a head of %d bytes: %d, want %d", size, response.StatusCode, status)
		}
	}
	ask(60<<10, http.StatusOK)
	close(stop)
	ended := time.Now()
	attacking.Wait()
	t.Logf("the attack ended within %s", time.Since(ended))
	ask(80<<10, http.StatusRequestHeaderFieldsTooLarge) // during the attack it may be the largest head, which is ended
	peak := peakMemory(t, wts)
	t.Logf("at most %d MiB were resident, of %d that are allowed; the worker waited for at most %s", peak, most, slowest)
	if peak > most && !instance.Race {
		t.Errorf("%d MiB were resident, want at most %d", peak, most)
	}
}

// peakMemory is the most memory that a process ever had resident, in MiB.
func peakMemory(t *testing.T, of *instance.Instance) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", of.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	kilobytes, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes / 1024
}
