package main

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mokv-foreign/api"
)

const (
	// Writers without a session; one more has one.
	writers = 4
	// Between two writes of a writer, and before one is sent again: nodes and client share a machine.
	pace       = 2 * time.Millisecond
	retryPause = 20 * time.Millisecond
	// So many writes are acknowledged before the leader is killed, and so many under the next one.
	enough = 200
)

// What may be concluded from an answer to a write.
type outcome int

const (
	acknowledged outcome = iota
	// It was looked at and changed nothing.
	refused
	// It changed nothing and never will.
	notExecuted
	// It may have been executed, or may yet be.
	unknown
)

func outcomeOf(err error, trailer metadata.MD) outcome {
	switch said := trailer.Get("mokv-outcome"); status.Code(err) {
	case codes.OK:
		return acknowledged
	case codes.Unavailable:
		if len(said) == 1 && said[0] == "none" {
			return notExecuted
		}
		// No node says only this of a write. The connection broke, and gRPC itself says so.
		return unknown
	case codes.Unknown, codes.DeadlineExceeded:
		return unknown
	default:
		return refused
	}
}

// Writers at work, and what they were promised.
type load struct {
	kv     api.KVClient
	prefix string
	group  *errgroup.Group
	// Ends when the writers should, and when one of them has failed.
	ctx  context.Context
	stop context.CancelFunc

	// How many writes were acknowledged, and how often one had to be sent again.
	acknowledged, sentAgain atomic.Int64
	// What became of each writer's keys, which are written once.
	fates [writers]map[string]outcome
	// How often the writer with a session wrote its one key.
	turns uint64
}

func startLoad(kv api.KVClient, prefix string) *load {
	ctx, stop := context.WithCancel(background)
	group, ctx := errgroup.WithContext(ctx)
	l := &load{kv: kv, prefix: prefix, group: group, ctx: ctx, stop: stop}
	for writer := range writers {
		l.fates[writer] = map[string]outcome{}
		group.Go(func() error { return l.writeKeys(writer) })
	}
	group.Go(l.writeInSession)
	return l
}

// Writes one key after the other. What has an unknown outcome is not sent again.
func (l *load) writeKeys(writer int) error {
	for number := 0; l.ctx.Err() == nil; number++ {
		key := fmt.Sprintf("%skeys/%d/%06d", l.prefix, writer, number)
		fate, err := l.send(&api.SetRequest{Key: []byte(key), Value: valueOf(key)}, notExecuted)
		if err != nil {
			return err
		}
		l.fates[writer][key] = fate
	}
	return nil
}

// Writes one key again and again. A session's write may be sent until it is answered.
func (l *load) writeInSession() error {
	session, err := l.kv.OpenSession(background, &api.OpenSessionRequest{})
	if err != nil {
		return err
	}
	for l.ctx.Err() == nil {
		turn := l.turns + 1
		request := &api.SetRequest{Key: []byte(l.sessionKey()), Value: turnValue(turn), Session: &api.SessionWrite{
			Session: session.Session, Sequence: turn, LowestUnanswered: turn}}
		if _, err := l.send(request, notExecuted, unknown); err != nil {
			return err
		}
		l.turns = turn
	}
	return nil
}

// Sends a write, again and again while its outcome is one of these. Being refused is an error: no write here asks for it.
func (l *load) send(request *api.SetRequest, again ...outcome) (outcome, error) {
	for {
		var trailer metadata.MD
		_, err := l.kv.Set(background, request, grpc.Trailer(&trailer))
		fate := outcomeOf(err, trailer)
		switch {
		case fate == refused:
			return fate, fmt.Errorf("a write of %s: %w", request.Key, err)
		case slices.Contains(again, fate):
			l.sentAgain.Add(1)
			time.Sleep(retryPause)
		default:
			if fate == acknowledged {
				l.acknowledged.Add(1)
			}
			time.Sleep(pace)
			return fate, nil
		}
	}
}

func (l *load) sessionKey() string { return l.prefix + "session" }

func valueOf(key string) []byte { return []byte("value of " + key) }

func turnValue(turn uint64) []byte { return fmt.Appendf(nil, "turn %d", turn) }

// Waits until enough more writes are acknowledged.
func (l *load) goesOn() {
	goal := l.acknowledged.Load() + enough
	eventually(func() {
		succeed(context.Cause(l.ctx))
		got := l.acknowledged.Load()
		require(got >= goal, "%d writes are acknowledged, not yet %d", got, goal)
	})
}

// Lets the writers finish what they have begun.
func (l *load) finish() {
	l.stop()
	succeed(l.group.Wait())
}
