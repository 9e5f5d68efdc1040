package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"mokv-foreign/api"
)

const (
	// Requests of each kind that have to go where they should, one after the other.
	routed = 100
	// Rounds of a write and a read through every follower.
	freshReads = 30
)

// Every call has its deadline from the service config.
var background = context.Background()

func (c *cluster) key(name string) string { return c.prefix + name }

func (c *cluster) set(key, value string) uint64 {
	answer := must(c.kv.Set(background, &api.SetRequest{Key: []byte(key), Value: []byte(value)}))
	require(answer.Ok, "the answer to a set is not ok")
	return answer.Revision
}

// The leader and the other members that should run.
func (c *cluster) members() (leader *api.Server, followers []*api.Server) {
	for _, server := range must(c.kv.GetServers(background, &api.GetServersRequest{})).Servers {
		switch {
		case server.IsLeader:
			require(leader == nil, "%s and %s both lead", leader.GetId(), server.Id)
			leader = server
		case server.Id != c.killed.GetId():
			followers = append(followers, server)
		}
	}
	require(leader != nil && leader.Id != c.killed.GetId(), "nobody leads")
	return leader, followers
}

// A connection to this node and no other, until it is closed.
func only(node *api.Server) (api.KVClient, io.Closer) {
	conn := must(dialNode(node.RpcAddr))
	return api.NewKVClient(conn), conn
}

// The only value of a header or trailer.
func single(from metadata.MD, name string) string {
	values := from.Get(name)
	require(len(values) == 1, "%s has the values %q", name, values)
	return values[0]
}

func (c *cluster) hasMembers() string {
	var names []string
	eventually(func() {
		leader, followers := c.members()
		equal("the number of followers", len(followers), 2)
		names = []string{leader.Id}
		for _, follower := range followers {
			require(!follower.IsLearner, "%s does not vote", follower.Id)
			require(follower.NodeId != 0, "%s has no id", follower.Id)
			names = append(names, follower.Id)
		}
	})
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func (c *cluster) setsAndGets() string {
	key := c.key("fields")
	first := c.set(key, "one")
	equal("the revision of the next write", c.set(key, "two"), first+1)
	c.set(c.key("other"), "")
	entry := must(c.kv.Get(background, &api.GetRequest{Key: []byte(key)}))
	want := &api.GetResponse{Key: []byte(key), Value: []byte("two"), Revision: first + 2,
		CreateRevision: first, ModRevision: first + 1, Version: 2}
	require(proto.Equal(entry, want), "the entry is %v, not %v", entry, want)
	return ""
}

func (c *cluster) goesByHost() string {
	leader, _ := c.members()
	conn := must(dialByHost(leader.RpcAddr))
	defer conn.Close()
	key, kv := c.key("by-host"), api.NewKVClient(conn)
	for _, value := range []string{"one", "two"} {
		must(kv.Set(background, &api.SetRequest{Key: []byte(key), Value: []byte(value)}))
		entry := must(kv.Get(background, &api.GetRequest{Key: []byte(key)}))
		equal("the value", string(entry.Value), value)
	}
	return conn.CanonicalTarget()
}

func (c *cluster) deletes() string {
	key := c.key("deleted")
	written := c.set(key, "short-lived")
	for _, want := range []*api.DeleteResponse{
		{Ok: true, Existed: true, Revision: written + 1},
		{Ok: true, Existed: false, Revision: written + 1},
	} {
		answer := must(c.kv.Delete(background, &api.DeleteRequest{Key: []byte(key)}))
		require(proto.Equal(answer, want), "the answer is %v, not %v", answer, want)
	}
	var trailer metadata.MD
	_, err := c.kv.Get(background, &api.GetRequest{Key: []byte(key)}, grpc.Trailer(&trailer))
	equal("the code of a get", status.Code(err), codes.NotFound)
	equal("its mokv-revision", single(trailer, "mokv-revision"), strconv.FormatUint(written+1, 10))
	return ""
}

func (c *cluster) writesOnCondition() string {
	key := c.key("condition")
	create := &api.SetRequest{Key: []byte(key), Value: []byte("first"), IfRevision: proto.Uint64(0)}
	created := must(c.kv.Set(background, create)).Revision
	refused := func(what string, present uint64, err error) {
		equal("the code of "+what, status.Code(err), codes.FailedPrecondition)
		details := status.Convert(err).Details()
		equal("the number of its details", len(details), 1)
		detail, typed := details[0].(*api.ConditionFailed)
		require(typed, "its detail is %v", details[0])
		equal("its present revision", detail.PresentRevision, present)
	}
	var trailer metadata.MD
	_, err := c.kv.Set(background, create, grpc.Trailer(&trailer))
	refused("a set if absent", created, err)
	equal("its mokv-reason", single(trailer, "mokv-reason"), "condition-failed")

	_, err = c.kv.Delete(background, &api.DeleteRequest{Key: []byte(key), IfRevision: proto.Uint64(created + 1)})
	refused("a delete of another revision", created, err)
	_, err = c.kv.Delete(background, &api.DeleteRequest{Key: []byte(c.key("absent")), IfRevision: proto.Uint64(created)})
	refused("a delete of an absent key's revision", 0, err)

	update := &api.SetRequest{Key: []byte(key), Value: []byte("second"), IfRevision: &created}
	equal("the revision of a met condition", must(c.kv.Set(background, update)).Revision, created+1)
	return ""
}

// The keys and values of a stream, and the revision in its header.
func (c *cluster) list(request *api.ListRequest) ([]*api.GetResponse, uint64) {
	return collect(must(c.kv.List(background, request)))
}

type entryStream interface {
	grpc.ClientStream
	Recv() (*api.GetResponse, error)
}

func collect(stream entryStream) (entries []*api.GetResponse, revision uint64) {
	header := must(stream.Header())
	for {
		entry, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return entries, must(strconv.ParseUint(single(header, "mokv-revision"), 10, 64))
		}
		entries = append(entries, must(entry, err))
	}
}

func keysOf(entries []*api.GetResponse) string {
	var keys []string
	for _, entry := range entries {
		keys = append(keys, string(entry.Key))
	}
	return strings.Join(keys, " ")
}

func (c *cluster) lists() string {
	folder := c.key("list/")
	a, b, ue := folder+"a", folder+"b", folder+"ü"
	for _, key := range []string{ue, b, a} {
		c.set(key, "value of "+key)
	}
	all, _ := c.list(&api.ListRequest{Prefix: []byte(folder)})
	equal("the listing", keysOf(all), strings.Join([]string{a, b, ue}, " "))
	for _, entry := range all {
		equal("the value of "+string(entry.Key), string(entry.Value), "value of "+string(entry.Key))
	}
	// Pages of one revision are one node's to keep.
	_, followers := c.members()
	kv, conn := only(followers[0])
	defer conn.Close()
	page, revision := collect(must(kv.List(background, &api.ListRequest{Prefix: []byte(folder), Limit: 2})))
	equal("the first page", keysOf(page), a+" "+b)
	c.set(folder+"c", "too late")
	rest := &api.ListRequest{Prefix: []byte(folder), Limit: 2, StartAfter: []byte(b), AtRevision: revision, KeysOnly: true}
	page, at := collect(must(kv.List(background, rest)))
	equal("the second page", keysOf(page), ue)
	equal("its revision", at, revision)
	equal("a value that was left out", len(page[0].Value), 0)
	return ""
}

func (c *cluster) listsForEmpty() string {
	c.set(c.key("everything"), "")
	stream := must(c.conn.NewStream(background, &api.KV_ServiceDesc.Streams[0], api.KV_List_FullMethodName))
	typed := &grpc.GenericClientStream[emptypb.Empty, api.GetResponse]{ClientStream: stream}
	succeed(typed.Send(&emptypb.Empty{}))
	succeed(typed.CloseSend())
	entries, revision := collect(typed)
	everything, at := c.list(&api.ListRequest{})
	equal("the revision of the other listing", at, revision)
	equal("the number of keys", len(entries), len(everything))
	for i, entry := range everything {
		require(proto.Equal(entries[i], entry), "%s differs", entry.Key)
	}
	ours := slices.ContainsFunc(entries, func(entry *api.GetResponse) bool { return string(entry.Key) == c.key("everything") })
	require(ours, "a key of ours is missing")
	return ""
}

func (c *cluster) readsLastWrite() string {
	_, followers := c.members()
	for _, follower := range followers {
		kv, conn := only(follower)
		defer conn.Close()
		for round := range freshReads {
			value := fmt.Sprintf("round %d of %s", round, follower.Id)
			c.set(c.key("fresh"), value)
			got := must(kv.Get(background, &api.GetRequest{Key: []byte(c.key("fresh"))}))
			equal("what "+follower.Id+" reads", string(got.Value), value)
		}
	}
	return fmt.Sprintf("%d times on each of %d", freshReads, len(followers))
}

func (c *cluster) sendsTwice() string {
	session := must(c.kv.OpenSession(background, &api.OpenSessionRequest{}))
	require(session.Window > 0, "the session's window is empty")
	name := &api.SessionWrite{Session: session.Session, Sequence: 1, LowestUnanswered: 1}
	request := &api.SetRequest{Key: []byte(c.key("session")), Value: []byte("once"), Session: name}
	first := must(c.kv.Set(background, request)).Revision
	equal("the revision told again", must(c.kv.Set(background, request)).Revision, first)
	_, followers := c.members()
	for _, follower := range followers {
		kv, conn := only(follower)
		defer conn.Close()
		equal("what "+follower.Id+" tells", must(kv.Set(background, request)).Revision, first)
	}
	entry := must(c.kv.Get(background, &api.GetRequest{Key: request.Key}))
	equal("the version of the key", entry.Version, 1)
	equal("the revision of the store", entry.Revision, first)

	closed := must(c.kv.CloseSession(background, &api.CloseSessionRequest{Session: session.Session}))
	require(closed.Ok, "the session was not there to be closed")
	name.Sequence++
	var trailer metadata.MD
	_, err := c.kv.Set(background, request, grpc.Trailer(&trailer))
	equal("the code of a write of a closed session", status.Code(err), codes.FailedPrecondition)
	equal("its mokv-reason", single(trailer, "mokv-reason"), "session-expired")
	return ""
}

// Some round of requests goes where it should: the first ones may find connections that are not up yet.
func (c *cluster) routes() string {
	var detail string
	eventually(func() {
		leader, followers := c.members()
		c.traffic.take()
		for i := range routed {
			key := c.key("routed/" + strconv.Itoa(i))
			c.set(key, "written")
			must(c.kv.Get(background, &api.GetRequest{Key: []byte(key)}))
			must(c.kv.Delete(background, &api.DeleteRequest{Key: []byte(key)}))
		}
		c.list(&api.ListRequest{Prefix: []byte(c.prefix), KeysOnly: true})
		sent := c.traffic.take()
		equal("the number of nodes written to", len(sent.writes), 1)
		equal("the number of writes to the leader", sent.writes[leader.RpcAddr], 2*routed)
		equal("the number of nodes read from", len(sent.reads), len(followers))
		for _, follower := range followers {
			reads := sent.reads[follower.RpcAddr]
			require(reads >= routed/len(followers), "%s got %d of %d reads", follower.Id, reads, routed+1)
		}
		detail = fmt.Sprintf("%d writes to %s, %d reads from %d", 2*routed, leader.Id, routed+1, len(followers))
	})
	return detail
}
