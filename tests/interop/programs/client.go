// Call a server over net/rpc/jsonrpc: client PORT.
//
// Each line of the input is an array of calls, {"method": …, "param": …}. They are begun together,
// and their outcomes are printed as one array, in the order of the calls: {"result": …}, or
// {"error": …} and whether the connection goes on.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
)

type call struct {
	Method string
	Param  json.RawMessage
}

// pair is what every call that gives an object gives.
type pair struct{ A, B int }

func (c call) begin(client *rpc.Client) *rpc.Call {
	var param interface{} = c.Param
	if len(c.Param) > 0 && c.Param[0] == '{' {
		var both pair
		if err := json.Unmarshal(c.Param, &both); err != nil {
			log.Fatal(err)
		}
		param = both
	}
	return client.Go(c.Method, param, new(interface{}), make(chan *rpc.Call, 1))
}

func outcome(done *rpc.Call) map[string]interface{} {
	if done.Error == nil {
		return map[string]interface{}{"result": done.Reply}
	}
	// What the server says is a ServerError; anything else has ended the client.
	_, goesOn := done.Error.(rpc.ServerError)
	return map[string]interface{}{"error": done.Error.Error(), "goes on": goesOn}
}

func main() {
	client, err := jsonrpc.Dial("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var calls []call
		if err := in.Decode(&calls); err == io.EOF {
			return
		} else if err != nil {
			log.Fatal(err)
		}
		var begun []*rpc.Call
		for _, one := range calls {
			begun = append(begun, one.begin(client))
		}
		outcomes := []interface{}{}
		for _, one := range begun {
			outcomes = append(outcomes, outcome(<-one.Done))
		}
		if err := out.Encode(outcomes); err != nil {
			log.Fatal(err)
		}
	}
}
