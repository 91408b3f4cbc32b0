// Steady traffic, and what it is sent to: the two ends between which a gateway's parts are ended.
//
//	steady serve          HTTP/1.1, HTTP/2 and WebSocket on 8080, gRPC on 9090; ends as a well-behaved backend does
//	steady load ADDRESS   until standard input ends: HTTP/1.1, HTTP/2, gRPC and one WebSocket; prints what failed as JSON
package main

import (
	"fmt"
	"os"
)

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "serve":
		serve()
	case len(os.Args) == 3 && os.Args[1] == "load":
		load(os.Args[2])
	default:
		fmt.Fprintln(os.Stderr, "usage: steady serve | steady load ADDRESS")
		os.Exit(2)
	}
}
