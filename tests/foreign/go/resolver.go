package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"

	"mokv-foreign/api"
)

const (
	// So often a resolver asks who the members are,
	askEvery = time.Second
	// and no sooner than this after it asked, however much it is begged.
	askPause = 50 * time.Millisecond
	// A node that says nothing for so long is passed over.
	askPatience = time.Second
)

// The key of what the resolver tells the balancer of an address. gRPC takes an address with another attribute for
// another address: a node is connected anew when it begins or ceases to lead.
type isLeader struct{}

// Follows the members of a cluster for one ClientConn.
type clusterResolver struct {
	conn resolver.ClientConn
	seed string
	// Holds a token when somebody wants to know now.
	wanted chan struct{}
	stop   context.CancelFunc
}

type resolverBuilder struct{}

func (resolverBuilder) Scheme() string { return clusterScheme }

func (resolverBuilder) Build(target resolver.Target, conn resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	seed := cmp.Or(target.Endpoint(), target.URL.Host)
	if seed == "" {
		return nil, fmt.Errorf("%s names no node", &target.URL)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &clusterResolver{conn: conn, seed: seed, wanted: make(chan struct{}, 1), stop: stop}
	go r.follow(ctx)
	return r, nil
}

func (r *clusterResolver) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case r.wanted <- struct{}{}:
	default: // somebody wants to know already
	}
}

func (r *clusterResolver) Close() { r.stop() }

func (r *clusterResolver) follow(ctx context.Context) {
	known := []string{r.seed}
	for ctx.Err() == nil {
		servers, err := askAny(ctx, known)
		if err != nil {
			r.conn.ReportError(err)
		} else {
			known = r.reachable(servers)
			// Refused only when it names no address, and then the next answer helps.
			_ = r.conn.UpdateState(resolver.State{Addresses: addresses(servers)})
		}
		sleep(ctx, askPause)
		select {
		case <-ctx.Done():
		case <-r.wanted:
		case <-time.After(askEvery):
		}
	}
}

// Whom to ask next: the members, and the seed in case that they are all gone.
func (r *clusterResolver) reachable(servers []*api.Server) []string {
	var known []string
	for _, server := range servers {
		known = append(known, server.RpcAddr)
	}
	if !slices.Contains(known, r.seed) {
		known = append(known, r.seed)
	}
	return known
}

func addresses(servers []*api.Server) []resolver.Address {
	var list []resolver.Address
	for _, server := range servers {
		list = append(list, resolver.Address{
			Addr:       server.RpcAddr,
			Attributes: attributes.New(isLeader{}, server.IsLeader),
		})
	}
	return list
}

// The members as the first node that answers knows them.
func askAny(ctx context.Context, nodes []string) ([]*api.Server, error) {
	var failures []error
	for _, node := range nodes {
		servers, err := ask(ctx, node)
		if err == nil {
			return servers, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", node, err))
	}
	return nil, errors.Join(failures...)
}

func ask(ctx context.Context, node string) ([]*api.Server, error) {
	conn, err := dialNode(node)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	answer, err := api.NewKVClient(conn).GetServers(ctx, &api.GetServersRequest{}, grpc.WaitForReady(false))
	return answer.GetServers(), err
}

func sleep(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}
