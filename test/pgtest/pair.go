package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pair is a primary and a standby that follows it asynchronously and takes its place, on the loopback
// address. The cluster that it embeds is the primary of now; its URL names both, as operators write it.
type Pair struct {
	*Cluster
	standby *Cluster
}

// StartPair makes and starts a pair.
func StartPair() (*Pair, error) {
	first, err := Start()
	if err != nil {
		return nil, err
	}
	second, err := empty(Options{Host: loopback})
	if err != nil {
		return nil, errors.Join(err, first.Remove())
	}
	both := fmt.Sprintf("postgres://wts@127.0.0.1:%d,127.0.0.1:%d/postgres?sslmode=disable", first.port, second.port)
	first.URL, second.URL = both, both
	p := &Pair{Cluster: first, standby: second}
	return p, p.Follow()
}

// Follow makes the standby anew from the primary, and waits until it has all that the primary has.
func (p *Pair) Follow() error {
	if err := os.RemoveAll(p.standby.dir + "/data"); err != nil {
		return fmt.Errorf("emptying the standby: %w", err)
	}
	backup := p.standby.run("pg_basebackup", "-h", loopback, "-p", strconv.Itoa(p.port), "-U", "wts", "-D", p.standby.dir+"/data", "-R", "-c", "fast", "-X", "stream")
	if output, err := backup.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w\n%s", err, output)
	}
	if err := p.standby.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		streams := false
		err := p.on(p.Cluster, "SELECT EXISTS (SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_lsn() - 65536)", &streams)
		if err == nil && streams {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the standby does not follow: %w", err)
		}
	}
}

// CutOff keeps the standby from the primary: what is committed from now on is lost with it.
func (p *Pair) CutOff() error {
	for _, statement := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		if err := p.on(p.standby, statement); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		receives := true
		if err := p.on(p.standby, "SELECT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)", &receives); err == nil && !receives {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the standby goes on to follow")
		}
	}
}

// Promote stops the primary at once and promotes the standby in its place.
func (p *Pair) Promote() error {
	if err := p.Stop(); err != nil {
		return err
	}
	if output, err := p.standby.run("pg_ctl", "-D", p.standby.dir+"/data", "-w", "promote").CombinedOutput(); err != nil {
		return fmt.Errorf("pg_ctl promote: %w\n%s", err, output)
	}
	p.Cluster, p.standby = p.standby, p.Cluster
	return nil
}

// Remove stops both and deletes their folders.
func (p *Pair) Remove() error { return errors.Join(p.Cluster.Remove(), p.standby.Remove()) }

// on runs a statement on one of the two, and reads one value where there is a place for it.
func (p *Pair) on(one *Cluster, statement string, value ...any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	connection, err := pgx.Connect(ctx, fmt.Sprintf("postgres://wts@127.0.0.1:%d/postgres?sslmode=disable", one.port))
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer connection.Close(ctx)
	if len(value) == 0 {
		_, err = connection.Exec(ctx, statement)
	} else {
		err = connection.QueryRow(ctx, statement).Scan(value...)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.SplitN(statement, " ", 3)[0], err)
	}
	return nil
}
