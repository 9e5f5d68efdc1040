package main

import (
	"context"
	"sync"

	"google.golang.org/grpc/stats"
)

// Counts what was sent where: requests by the address at the other end of the connection that took them.
type traffic struct {
	mu     sync.Mutex
	counts sent
}

type sent struct {
	reads, writes map[string]int
}

func newTraffic() *traffic {
	return &traffic{counts: nothingSent()}
}

func nothingSent() sent {
	return sent{reads: map[string]int{}, writes: map[string]int{}}
}

// What was sent since this was last asked.
func (t *traffic) take() sent {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := t.counts
	t.counts = nothingSent()
	return counts
}

// HandleRPC is told of every step of every call; its headers leave for one node.
func (t *traffic) HandleRPC(_ context.Context, step stats.RPCStats) {
	header, leaves := step.(*stats.OutHeader)
	if !leaves {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if writes[header.FullMethod] {
		t.counts.writes[header.RemoteAddr.String()]++
	} else {
		t.counts.reads[header.RemoteAddr.String()]++
	}
}

func (t *traffic) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (t *traffic) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (t *traffic) HandleConn(context.Context, stats.ConnStats)                       {}
