// The other end of a link, by the libraries of the existing agent: hashicorp/yamux over gorilla/websocket.
//
//	yamux-peer control-plane   listens on a port of its own and prints it; takes one agent
//	yamux-peer agent URL       dials
//
// With "compressed" behind it, each message is compressed (permessage-deflate), if the other end wants that too.
//
// What an accepted stream asks for is its first line, see answer. What this end is to do by itself comes as a text message, see perform,
// and is answered by one: "ok", or what went wrong.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

func main() {
	log.SetFlags(0)
	config := yamux.DefaultConfig()
	// What goes wrong shows in what the streams and the text messages say.
	config.LogOutput = io.Discard
	// A stream closed here and not there is reset after it.
	config.StreamCloseTimeout = 200 * time.Millisecond
	compressed := os.Args[len(os.Args)-1] == "compressed"
	if compressed {
		os.Args = os.Args[:len(os.Args)-1]
	}
	switch {
	case len(os.Args) == 2 && os.Args[1] == "control-plane":
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(err)
		fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		check(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			upgrader := websocket.Upgrader{EnableCompression: compressed}
			socket, err := upgrader.Upgrade(w, r, nil)
			check(err)
			run(socket, func(link *link) (*yamux.Session, error) { return yamux.Server(link, config) })
		})))
	case len(os.Args) == 3 && os.Args[1] == "agent":
		dialer := websocket.Dialer{EnableCompression: compressed}
		socket, _, err := dialer.Dial(os.Args[2], nil)
		check(err)
		run(socket, func(link *link) (*yamux.Session, error) { return yamux.Client(link, config) })
	default:
		log.Fatal("usage: yamux-peer control-plane [compressed] | yamux-peer agent URL [compressed]")
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func run(socket *websocket.Conn, start func(*link) (*yamux.Session, error)) {
	link := &link{Conn: socket.NetConn(), socket: socket, texts: make(chan string, 16)}
	session, err := start(link)
	check(err)
	go func() {
		for text := range link.texts {
			go func() { link.say(perform(session, text)) }()
		}
	}()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			if err := answer(stream); err != nil {
				link.say(err)
			}
		}()
	}
}

// Does what a text message asks for.
func perform(session *yamux.Session, text string) error {
	var command string
	var count, size int
	if _, err := fmt.Sscan(text, &command, &count, &size); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	switch command {
	case "ask":
		// That many streams at once; each sends its bytes and checks those that come back.
		outcomes := make(chan error, count)
		for range count {
			go func() { outcomes <- ask(session, size) }()
		}
		var failed error
		for range count {
			failed = errors.Join(failed, <-outcomes)
		}
		return failed
	case "be-dropped":
		stream, err := session.OpenStream()
		if err != nil {
			return err
		}
		if _, err := io.WriteString(stream, "drop\n"); err != nil {
			return err
		}
		return reset(stream)
	case "ping":
		_, err := session.Ping()
		return err
	case "go-away":
		return session.GoAway()
	}
	return fmt.Errorf("unknown command %q", text)
}

// The stream ends by the peer's reset, and by nothing else.
func reset(stream *yamux.Stream) error {
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, yamux.ErrConnectionReset) {
		return fmt.Errorf("not reset: %v", err)
	}
	return nil
}

func ask(session *yamux.Session, size int) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stream, "sum %d\n", size); err != nil {
		return err
	}
	body := pattern(size)
	if _, err := stream.Write(body); err != nil {
		return err
	}
	// Ends what goes out; the answer still comes in.
	if err := stream.Close(); err != nil {
		return err
	}
	got, err := io.ReadAll(stream)
	if err != nil {
		return err
	}
	if want := sum(body) + "\n" + string(body); string(got) != want {
		return fmt.Errorf("%d bytes came back, not the right %d", len(got), len(want))
	}
	return nil
}

// Serves an accepted stream.
func answer(stream *yamux.Stream) error {
	reader := bufio.NewReader(stream)
	var command string
	var size int
	if _, err := fmt.Fscanln(reader, &command, &size); err != nil {
		return err
	}
	hash := sha256.New()
	var err error
	switch command {
	case "sum":
		_, err = io.Copy(hash, reader)
	case "slow":
		// In sips, so that the window runs out again and again.
		for err == nil {
			_, err = io.CopyN(hash, reader, 16<<10)
			time.Sleep(2 * time.Millisecond)
		}
		if err == io.EOF {
			err = nil
		}
	case "leave":
		return stream.Close()
	case "be-dropped":
		// As it would be said had the reset been here before the first line was read: what was unread is gone with it.
		if err := reset(stream); err != nil {
			return err
		}
		return yamux.ErrConnectionReset
	default:
		err = fmt.Errorf("unknown stream %q", command)
	}
	if err != nil {
		return err
	}
	if _, err := io.WriteString(stream, hex.EncodeToString(hash.Sum(nil))+"\n"); err != nil {
		return err
	}
	if _, err := stream.Write(pattern(size)); err != nil {
		return err
	}
	return stream.Close()
}

func pattern(size int) []byte {
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = byte(i % 251)
	}
	return bytes
}

func sum(bytes []byte) string {
	hash := sha256.Sum256(bytes)
	return hex.EncodeToString(hash[:])
}

// The binary messages of a WebSocket as a connection; its text messages beside it.
type link struct {
	net.Conn
	socket  *websocket.Conn
	texts   chan string
	message io.Reader
	writing sync.Mutex
}

func (l *link) Read(buffer []byte) (int, error) {
	for {
		if l.message != nil {
			n, err := l.message.Read(buffer)
			if err == io.EOF {
				l.message, err = nil, nil
			}
			if n > 0 || err != nil {
				return n, err
			}
		}
		kind, message, err := l.socket.NextReader()
		if err != nil {
			return 0, err
		}
		if kind == websocket.BinaryMessage {
			l.message = message
			continue
		}
		text, err := io.ReadAll(message)
		if err != nil {
			return 0, err
		}
		l.texts <- string(text)
	}
}

func (l *link) Write(bytes []byte) (int, error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	return len(bytes), l.socket.WriteMessage(websocket.BinaryMessage, bytes)
}

func (l *link) say(outcome error) {
	text := "ok"
	if outcome != nil {
		text = outcome.Error()
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	check(l.socket.WriteMessage(websocket.TextMessage, []byte(text)))
}
