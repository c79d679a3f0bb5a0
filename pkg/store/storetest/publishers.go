package storetest

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/workspace-token-service/wts/pkg/publisher"
)

func publisherOf(id, createdBy string) publisher.Publisher {
	return publisher.Publisher{
		ID: id, Audience: "sites", Resource: "plugin", Issuer: "https://ci", Subject: "repo:octo/app:ref:refs/heads/main", Claims: map[string]string{"repository_id": "7", "workflow": "x"},
		Scopes: []string{"read", "upload"}, Name: "the " + id, CreatedBy: createdBy, CreatedAt: now(),
	}
}

func publishersKept(t *testing.T, s Store) {
	alice := connect(t, s, grantOf("alice", tokensOf("rt", "at")))
	keeper := s.PublisherStore
	want(t, "of no resource", keeper.CreatePublisher(t.Context(), publisherOf("p0", alice), 9), publisher.ErrUnknown)
	putResource(t, s, "sites", "plugin")
	putResource(t, s, "sites", "other")
	first, second := publisherOf("p1", alice), publisherOf("p2", alice)
	second.CreatedAt, second.Scopes, second.Claims = first.CreatedAt.Add(time.Second), []string{}, nil
	for _, one := range []publisher.Publisher{second, first} {
		want(t, "stored", keeper.CreatePublisher(t.Context(), one, 2), nil)
	}
	want(t, "one too many", keeper.CreatePublisher(t.Context(), publisherOf("p3", alice), 2), publisher.ErrFull)
	list := func(resource string) []publisher.Publisher {
		t.Helper()
		all, err := keeper.Publishers(t.Context(), "sites", resource)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	equal(t, "as they were stored", []publisher.Publisher{first, second}, list("plugin"))
	equal(t, "of another resource", []publisher.Publisher(nil), list("other"))

	// Of many exchanges of one token at once, one counts.
	var spent, replayed atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch err := keeper.Spend(t.Context(), "digest", now().Add(time.Hour), "p1"); {
			case err == nil:
				spent.Add(1)
			case errors.Is(err, publisher.ErrReplayed):
				replayed.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	equal(t, "exchanges of one token", "1 and 7", fmt.Sprintf("%d and %d", spent.Load(), replayed.Load()))
	if used := list("plugin")[0].LastUsedAt; used.IsZero() {
		t.Error("its use was not noted")
	}
	want(t, "another token, long ago", keeper.Spend(t.Context(), "old", now().Add(-time.Hour), "p1"), nil)
	if err := s.Tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	want(t, "a token that is remembered", keeper.Spend(t.Context(), "digest", now().Add(time.Hour), "p1"), publisher.ErrReplayed)
	want(t, "one that has expired", keeper.Spend(t.Context(), "old", now().Add(time.Hour), "p1"), nil)

	want(t, "deleted under another resource", keeper.DeletePublisher(t.Context(), "sites", "other", "p1"), publisher.ErrUnknown)
	want(t, "deleted", keeper.DeletePublisher(t.Context(), "sites", "plugin", "p1"), nil)
	want(t, "deleted again", keeper.DeletePublisher(t.Context(), "sites", "plugin", "p1"), publisher.ErrUnknown)
	equal(t, "what is left", []publisher.Publisher{second}, list("plugin"))
}
