package system

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/test/deployment"
)

// Each token that a caller has is in the audit, though the process is killed in the next moment; and a
// command says who ran it.
func TestTheAuditSurvivesAKill(t *testing.T) {
	r := deployment.New(t, deployment.Setup{People: 1, Replicas: 1, Life: time.Hour, Rate: 10, Log: "info"})
	r.Connect(t, r.Names[0], time.Hour, false)
	worker, handed := r.Worker(0), 0
	for range 2 {
		for range 10 {
			if answer := r.WTS[0].Token(t, worker, ""); answer.Status != http.StatusOK {
				t.Fatalf("answered %d %s", answer.Status, answer.Message)
			}
			handed++
		}
		r.WTS[0].Kill()
		if found := strings.Count(r.WTS[0].Log(), `"audit":"handout","outcome":"done"`); found != handed {
			t.Fatalf("%d tokens were handed out, and %d are in the audit", handed, found)
		}
		r.WTS[0].Restart(t)
		r.WTS[0].AwaitReady(t)
	}
	if said := r.WTS[0].Run(t, "users", "disable", r.Names[0]); !strings.Contains(said, `"proof":"operator","actor":"`) || !strings.Contains(said, "@") {
		t.Errorf("the command does not say who ran it: %s", said)
	}
}
