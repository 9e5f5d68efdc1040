package main

import (
	"fmt"

	"mokv-foreign/api"
)

func (c *cluster) outlivesLeader() string {
	c.load = startLoad(c.kv, c.key("load/"))
	c.load.goesOn()
	c.killed, _ = c.members()
	c.ask("kill " + c.killed.Id)
	var next *api.Server
	eventually(func() { next, _ = c.members() })
	c.load.goesOn()
	c.load.finish()
	return fmt.Sprintf("%s, then %s; %d writes acknowledged, %d times sent again",
		c.killed.Id, next.Id, c.load.acknowledged.Load(), c.load.sentAgain.Load())
}

func (c *cluster) keepsPromises() string {
	entries, _ := c.list(&api.ListRequest{Prefix: []byte(c.load.prefix)})
	found := map[string]*api.GetResponse{}
	for _, entry := range entries {
		found[string(entry.Key)] = entry
	}
	kept, doubtful := 0, 0
	for _, fates := range c.load.fates {
		for key, fate := range fates {
			entry, there := found[key]
			delete(found, key)
			if fate == unknown {
				doubtful++
			} else {
				kept++
				require(there, "%s is lost", key)
			}
			if there {
				equal("the value of "+key, string(entry.Value), string(valueOf(key)))
				equal("the version of "+key, entry.Version, 1)
			}
		}
	}
	inSession := found[c.load.sessionKey()]
	delete(found, c.load.sessionKey())
	equal("the version of the session's key", inSession.GetVersion(), c.load.turns)
	equal("the value of the session's key", string(inSession.GetValue()), string(turnValue(c.load.turns)))
	for key := range found {
		require(false, "nobody wrote %s", key)
	}
	return fmt.Sprintf("%d keys, and %d turns of a session's key; %d of unknown outcome",
		kept, c.load.turns, doubtful)
}

func (c *cluster) welcomesBack() string {
	c.ask("start " + c.killed.Id)
	c.set(c.key("back"), "welcome")
	kv, conn := only(c.killed)
	defer conn.Close()
	eventually(func() {
		entry := must(kv.Get(background, &api.GetRequest{Key: []byte(c.key("back"))}))
		equal("what "+c.killed.Id+" reads", string(entry.Value), "welcome")
	})
	c.killed = nil
	return c.routes()
}
