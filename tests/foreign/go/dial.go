package main

import (
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// Targets of this scheme, mokv:///HOST:PORT or mokv://HOST:PORT with the address of any node, mean the node's whole
// cluster.
const clusterScheme = "mokv"

// A call waits for a connection, and for an answer not for ever.
var serviceConfig = fmt.Sprintf(`{
	"loadBalancingConfig": [{%q: {}}],
	"methodConfig": [{"name": [{}], "waitForReady": true, "timeout": "10s"}]
}`, balancerName)

// A node that comes back is to be noticed soon.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second},
	MinConnectTimeout: time.Second,
}

// Connects to the cluster that a node belongs to.
func dialCluster(node string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return dial(clusterScheme+":///"+node, append(options, grpc.WithResolvers(resolverBuilder{}))...)
}

// Connects to the cluster that a node belongs to by a target that names the node as a URL names a host, as the original's
// own client does. gRPC takes the name for requests, :authority, from the target's path, which is empty here.
func dialByHost(node string) (*grpc.ClientConn, error) {
	return dial(clusterScheme+"://"+node, grpc.WithResolvers(resolverBuilder{}))
}

// Connects to this node and no other.
func dialNode(node string) (*grpc.ClientConn, error) {
	return dial("passthrough:///" + node)
}

func dial(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(target, append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(reconnect),
	)...)
}
