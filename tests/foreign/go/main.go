// A client of mökv on grpc-go, which proves that the contract holds for others than its authors.
//
//	go generate && go run . HOST:PORT
//
// HOST:PORT is any node of a cluster of three. A line is printed for each thing that was proved. In between the program
// asks for a node to be killed and started again ("do  kill NAME"), and goes on when it reads a line from its standard
// input.
package main

//go:generate go run ./generate

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"

	"mokv-foreign/api"
)

// What is proved, in this order. A proof may tell a detail.
var claims = []struct {
	claim string
	prove func(*cluster) string
}{
	{"three members answer and one of them leads", (*cluster).hasMembers},
	{"a set takes the next revision and a get returns all of it", (*cluster).setsAndGets},
	{"a target mokv://HOST:PORT, which leaves :authority empty, writes and reads", (*cluster).goesByHost},
	{"a delete says whether the key was there, and a get then NOT_FOUND", (*cluster).deletes},
	{"a failed condition returns the present revision in google.rpc.Status", (*cluster).writesOnCondition},
	{"a list is one revision in byte order, page by page", (*cluster).lists},
	{"the bytes of google.protobuf.Empty list everything", (*cluster).listsForEmpty},
	{"a linearizable get on each follower sees the last write", (*cluster).readsLastWrite},
	{"a write of a session that is sent twice is applied once", (*cluster).sendsTwice},
	{"writes went to the leader and none to a follower, reads to each follower and none to the leader", (*cluster).routes},
	{"writes go on with a new leader when the leader is killed", (*cluster).outlivesLeader},
	{"every acknowledged write is there and was applied once", (*cluster).keepsPromises},
	{"writes went to the new leader and reads to the follower that is left", (*cluster).routes},
	{"the killed node comes back, sees the last write and is read from", (*cluster).welcomesBack},
}

// The cluster under test, and what was learned of it.
type cluster struct {
	// Requests by these go to the leader or to a follower, as the balancer likes.
	conn *grpc.ClientConn
	kv   api.KVClient
	// What they sent where.
	traffic *traffic
	// What the keys of this run begin with.
	prefix string
	// The node that was killed and is not back, if there is one.
	killed *api.Server
	// What went on meanwhile.
	load *load
	// Answers of whoever watches over the cluster.
	answers *bufio.Scanner
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: mokv-foreign HOST:PORT")
		os.Exit(2)
	}
	balancer.Register(newBalancerBuilder())
	traffic := newTraffic()
	conn, err := dialCluster(os.Args[1], grpc.WithStatsHandler(traffic))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	defer conn.Close()
	c := &cluster{
		conn:    conn,
		kv:      api.NewKVClient(conn),
		traffic: traffic,
		prefix:  fmt.Sprintf("go/%d/", time.Now().UnixNano()),
		answers: bufio.NewScanner(os.Stdin),
	}
	for _, each := range claims {
		detail := ""
		if err := try(func() { detail = each.prove(c) }); err != nil {
			fmt.Printf("FAIL  %s: %v\n", each.claim, err)
			os.Exit(1)
		}
		if detail != "" {
			detail = " (" + detail + ")"
		}
		fmt.Printf("ok  %s%s\n", each.claim, detail)
	}
}

// Asks whoever watches over the cluster to do something, and waits until it is done.
func (c *cluster) ask(what string) {
	fmt.Println("do ", what)
	require(c.answers.Scan(), "nobody did it: %s", what)
}
