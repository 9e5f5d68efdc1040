package main

import (
	"sync/atomic"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/base"

	"mokv-foreign/api"
)

const balancerName = "mokv_leader_and_followers"

// What goes to the leader; everything else is a read.
var writes = map[string]bool{
	api.KV_Set_FullMethodName:          true,
	api.KV_Delete_FullMethodName:       true,
	api.KV_OpenSession_FullMethodName:  true,
	api.KV_CloseSession_FullMethodName: true,
}

func newBalancerBuilder() balancer.Builder {
	return base.NewBalancerBuilder(balancerName, pickerBuilder{}, base.Config{})
}

type pickerBuilder struct{}

func (pickerBuilder) Build(info base.PickerBuildInfo) balancer.Picker {
	p := &picker{}
	for conn, about := range info.ReadySCs {
		if leads, _ := about.Address.Attributes.Value(isLeader{}).(bool); leads {
			p.leader = conn
		} else {
			p.followers = append(p.followers, conn)
		}
	}
	return p
}

// Sends writes to the leader and reads to the followers in turn. Any node takes any request, so that each kind goes
// where the other goes while there is nobody else.
type picker struct {
	leader    balancer.SubConn
	followers []balancer.SubConn
	reads     atomic.Uint64
}

func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	switch {
	case p.leader != nil && (writes[info.FullMethodName] || len(p.followers) == 0):
		return balancer.PickResult{SubConn: p.leader}, nil
	case len(p.followers) > 0:
		turn := p.reads.Add(1) % uint64(len(p.followers))
		return balancer.PickResult{SubConn: p.followers[turn]}, nil
	default:
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
}
