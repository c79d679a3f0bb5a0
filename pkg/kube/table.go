package kube

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// row is what the table of pods tells of one.
type row struct {
	name    string
	address netip.Addr // the first one; none where there is none yet
	bound   bool       // to a node
	running bool
	age     time.Duration // rounded down; zero where it is not told
}

// same tells that the pod of a row is where the one is that was read. One that has no address yet is where it was once
// its node is known.
func (r row) same(known reading) bool {
	if len(known.pod.addresses) == 0 {
		return !r.address.IsValid() && len(known.pod.hosts) > 0
	}
	return known.pod.addresses[0] == r.address
}

// tells whether the pod of a row is the one that was read, and is as it was then. A pod that took its name and address
// since would be younger than the reading. One that has ended, or is being terminated, stays so.
func (r row) tells(known reading, now time.Time) bool {
	return r.age > known.age(now)+createTime && r.running == known.pod.alive()
}

// errNoTable is what any other answer is.
var errNoTable = errors.New("the API server sent no table of pods")

// tableFormat asks for a table (metav1.Table), which there is in JSON alone.
const tableFormat = "application/json;as=Table;g=meta.k8s.io;v=v1"

// table asks for the table of the namespace's pods. No resource version is named, as in a list: it is of this moment.
func (w *whole) table(ctx context.Context) ([]row, error) {
	w.observer.KubeCall("list")
	body, err := w.core.Get().Namespace(w.namespace).Resource("pods").SetHeader("Accept", tableFormat).SetHeader("Accept-Encoding", "identity").
		Param("includeObject", "None").Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return readTable(body)
}

// readTable reads a table whose columns are those of pods, wherever they stand in it. An error means that it is not
// whole, or something else.
func readTable(body io.Reader) ([]row, error) {
	in := jsontext.NewDecoder(io.LimitReader(body, maxJSONBytes))
	var kind, more string
	columns := columns{-1, -1, -1, -1, -1}
	var rows []row
	err := members(in, func(name string) (err error) {
		switch name {
		case "kind":
			kind, err = text(in)
		case "metadata":
			err = members(in, func(name string) (err error) {
				if name == "continue" {
					more, err = text(in)
					return err
				}
				return in.SkipValue()
			})
		case "columnDefinitions":
			err = columns.read(in)
		case "rows":
			if !columns.known() { // they come first
				return in.SkipValue()
			}
			rows = []row{}
			err = elements(in, func(int) error {
				one, err := columns.row(in)
				rows = append(rows, one)
				return err
			})
		default:
			err = in.SkipValue()
		}
		return err
	})
	switch {
	case err != nil || more != "":
		return nil, errNotWhole
	case kind != "Table" || rows == nil:
		return nil, errNoTable
	}
	return rows, nil
}

// columns are where those that are needed stand.
type columns struct{ name, status, age, address, node int }

// known tells that all of them have been found.
func (c *columns) known() bool { return min(c.name, c.status, c.age, c.address, c.node) >= 0 }

// read reads the definitions of the columns.
func (c *columns) read(in *jsontext.Decoder) error {
	return elements(in, func(at int) error {
		return members(in, func(member string) error {
			if member != "name" {
				return in.SkipValue()
			}
			name, err := text(in)
			switch name {
			case "Name":
				c.name = at
			case "Status":
				c.status = at
			case "Age":
				c.age = at
			case "IP":
				c.address = at
			case "Node":
				c.node = at
			}
			return err
		})
	})
}

// row reads the cells of a row, and its conditions, of which a pod has one once it has ended: what is printed as its
// status is that of its containers.
func (c *columns) row(in *jsontext.Decoder) (one row, err error) {
	ended := false
	err = members(in, func(member string) error {
		switch member {
		case "conditions":
			return elements(in, func(int) error {
				ended = true
				return in.SkipValue()
			})
		case "cells":
		default:
			return in.SkipValue()
		}
		return elements(in, func(at int) error {
			cell, err := in.ReadValue()
			if err != nil || cell.Kind() != '"' {
				return err
			}
			switch quoted := cell[1 : len(cell)-1]; at { // none that is read has a character that is escaped
			case c.name:
				one.name = string(quoted)
			case c.status:
				one.running = string(quoted) == "Running"
			case c.age:
				one.age = readAge(string(quoted))
			case c.address:
				address, _ := netip.ParseAddr(string(quoted)) // "<none>" is none
				one.address = address.Unmap()
			case c.node:
				one.bound = len(quoted) > 0 && quoted[0] != '\\' && quoted[0] != '<' // "<none>" is none
			}
			return nil
		})
	})
	one.running = one.running && !ended
	return one, err
}

// text reads a string, such as the name of a member or its value. A number, an object or null in its place is an error:
// the API server sends none there.
func text(in *jsontext.Decoder) (string, error) {
	token, err := in.ReadToken()
	if err == nil && token.Kind() != '"' {
		err = errNotWhole
	}
	if err != nil {
		return "", err
	}
	return token.String(), nil
}

// members reads an object. It reads the name of each member, and each has to read the value, or to pass over it.
func members(in *jsontext.Decoder, each func(name string) error) error {
	return within(in, '{', '}', func(int) error {
		name, err := text(in)
		if err != nil {
			return err
		}
		return each(name)
	})
}

// elements reads an array. Each reads one element, and is told where it stands, from 0.
func elements(in *jsontext.Decoder, each func(at int) error) error {
	return within(in, '[', ']', each)
}

// within reads what is between two tokens, and null as nothing.
func within(in *jsontext.Decoder, begin, end jsontext.Kind, each func(at int) error) error {
	if in.PeekKind() == 'n' {
		return in.SkipValue()
	}
	if token, err := in.ReadToken(); err != nil || token.Kind() != begin {
		return errNotWhole
	}
	for at := 0; in.PeekKind() != end; at++ {
		if err := each(at); err != nil {
			return err
		}
	}
	_, err := in.ReadToken()
	return err
}

// readAge reads an age such as 2d5h, which is rounded down, as duration.HumanDuration of k8s.io/apimachinery prints it;
// zero for what is none.
func readAge(text string) (age time.Duration) {
	number := time.Duration(0)
	for _, letter := range []byte(text) {
		var unit time.Duration
		switch letter {
		case 's':
			unit = time.Second
		case 'm':
			unit = time.Minute
		case 'h':
			unit = time.Hour
		case 'd':
			unit = 24 * time.Hour
		case 'y':
			unit = 365 * 24 * time.Hour
		default:
			if letter < '0' || letter > '9' || number > 1000 {
				return 0
			}
			number = number*10 + time.Duration(letter-'0')
			continue
		}
		age, number = age+number*unit, 0
	}
	return age
}
