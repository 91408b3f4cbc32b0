// Steady traffic, and what it is sent to: the two ends between which a gateway's parts are ended.
//
//	steady serve          HTTP/1.1, HTTP/2 and WebSocket on 8080, gRPC on 9090; ends as a well-behaved backend does
//	steady load ADDRESS   until standard input ends: HTTP/1.1, HTTP/2, gRPC and one WebSocket; prints what failed as JSON
//
// And many objects at once, in the cluster that kubectl would speak to:
//
//	steady gather NAMESPACE GATEWAY ROUTES ENDPOINTS    makes HTTPRoutes, Services and EndpointSlices
//	steady churn NAMESPACE ENDPOINTS N                  changes N EndpointSlices a second until standard input ends; prints how many
//	steady edit NAMESPACE N ADDRESS...                  edits weights N times; prints as JSON when data planes did so
//	steady disperse NAMESPACE ROUTES ENDPOINTS          deletes them
package main

import (
	"fmt"
	"os"
	"strconv"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	arguments := os.Args[2:]
	switch command := os.Args[1]; {
	case command == "serve" && len(arguments) == 0:
		serve()
	case command == "load" && len(arguments) == 1:
		load(arguments[0])
	case command == "gather" && len(arguments) == 4:
		gather(arguments[0], arguments[1], number(arguments[2]), number(arguments[3]))
	case command == "churn" && len(arguments) == 3:
		churn(arguments[0], number(arguments[1]), number(arguments[2]))
	case command == "edit" && len(arguments) > 2:
		edit(arguments[0], number(arguments[1]), arguments[2:])
	case command == "disperse" && len(arguments) == 3:
		disperse(arguments[0], number(arguments[1]), number(arguments[2]))
	default:
		usage()
	}
}

func number(text string) int {
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 {
		fmt.Fprintf(os.Stderr, "%q is not a number above 0\n", text)
		os.Exit(2)
	}
	return number
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: steady serve | load | gather | churn | edit | disperse; see the head of main.go")
	os.Exit(2)
}
