// Serve over net/rpc/jsonrpc until killed; "server version" tells what it was built by.
package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"runtime"
	"sync"
)

type Pair struct{ A, B int }

type Arith struct{}

func (Arith) Multiply(pair Pair, product *int) error {
	*product = pair.A * pair.B
	return nil
}

func (Arith) Divide(pair Pair, quotient *float64) error {
	if pair.B == 0 {
		return errors.New("Division by zero is not allowed")
	}
	*quotient = float64(pair.A) / float64(pair.B)
	return nil
}

// Gates are numbered, and shut until they are opened.
type Gates struct {
	lock  sync.Mutex
	gates map[int]chan bool
}

func (g *Gates) at(number int) chan bool {
	g.lock.Lock()
	defer g.lock.Unlock()
	if g.gates[number] == nil {
		g.gates[number] = make(chan bool)
	}
	return g.gates[number]
}

// Pass waits until the gate is opened.
func (g *Gates) Pass(number int, passed *int) error {
	<-g.at(number)
	*passed = number
	return nil
}

func (g *Gates) Open(number int, opened *int) error {
	close(g.at(number))
	*opened = number
	return nil
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "version" {
		fmt.Println(runtime.Version())
		return
	}
	for _, service := range []interface{}{Arith{}, &Gates{gates: map[int]chan bool{}}} {
		if err := rpc.Register(service); err != nil {
			log.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go jsonrpc.ServeConn(connection)
	}
}
