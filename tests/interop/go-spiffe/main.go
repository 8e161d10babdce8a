// Workloads with go-spiffe, unchanged: a server and a client that know nothing but the agent's socket, and talk mutual TLS
// with what it gives them. Each prints what it sees, one line an event; the client acts on the words in its input.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

// watcher prints the stream itself, which an X509Source hides.
type watcher struct{}

func (watcher) OnX509ContextUpdate(heard *workloadapi.X509Context) {
	words := []string{"set"}
	for _, svid := range heard.SVIDs {
		words = append(words, shown(svid))
	}
	fmt.Println(strings.Join(words, " "))
}

func (watcher) OnX509ContextWatchError(err error) {
	fmt.Println("ended", status.Code(err), strings.ReplaceAll(err.Error(), "\n", " "))
}

func shown(svid *x509svid.SVID) string {
	return svid.ID.String() + "=" + hex.EncodeToString(svid.Certificates[0].SerialNumber.Bytes())
}

// follow prints what the source hands out, now and after each change.
func follow(source *workloadapi.X509Source) {
	for {
		svid, err := source.GetX509SVID()
		if err != nil {
			return
		}
		fmt.Println("source", shown(svid))
		<-source.Updated()
	}
}

// serve answers each line of each connection with the serial of the certificate that it saw there.
func serve(config *tls.Config) error {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	fmt.Println("listening", listener.Addr())
	for {
		stream, err := listener.Accept()
		if err != nil {
			return err
		}
		go answer(stream.(*tls.Conn))
	}
}

func answer(stream *tls.Conn) {
	defer stream.Close()
	lines := bufio.NewScanner(stream)
	for lines.Scan() {
		if _, err := fmt.Fprintln(stream, peer(stream)); err != nil {
			return
		}
	}
}

func peer(stream *tls.Conn) string {
	return hex.EncodeToString(stream.ConnectionState().PeerCertificates[0].SerialNumber.Bytes())
}

// token prints a JWT-SVID for an audience that the source's own bundle verifies.
func token(source *workloadapi.JWTSource, audience string) {
	svid, err := source.FetchJWTSVID(context.Background(), jwtsvid.Params{Audience: audience})
	if err == nil {
		svid, err = jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{audience})
	}
	if err != nil {
		fmt.Println("failed", err)
		return
	}
	fmt.Println("token", svid.ID.String()+"="+strings.Join(svid.Audience, ","))
}

// dial opens a connection at the word "dial", and uses the first one again at the word "again"; "jwt" asks for a token.
func dial(address string, config *tls.Config, jwts *workloadapi.JWTSource) error {
	var first *tls.Conn
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		if audience, found := strings.CutPrefix(words.Text(), "jwt "); found {
			token(jwts, audience)
			continue
		}
		stream := first
		if words.Text() == "dial" {
			fresh, err := tls.Dial("tcp", address, config)
			if err != nil {
				fmt.Println("failed", err)
				continue
			}
			stream = fresh
			if first == nil {
				first = fresh
			}
		}
		if stream == nil {
			return errors.New("there is no connection yet")
		}
		if err := exchange(words.Text(), stream); err != nil {
			fmt.Println("failed", err)
		}
		if stream != first {
			stream.Close()
		}
	}
	return words.Err()
}

// exchange prints the certificates of both sides, each as the other one saw it.
func exchange(word string, stream net.Conn) error {
	if _, err := fmt.Fprintln(stream, "whom do you see"); err != nil {
		return err
	}
	seen, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil {
		return err
	}
	fmt.Println(word, "client="+strings.TrimSpace(seen), "server="+peer(stream.(*tls.Conn)))
	return nil
}

func run(words []string) error {
	if len(words) < 3 || (words[0] != "serve" && (words[0] != "dial" || len(words) != 4)) {
		return errors.New("usage: serve <socket> <trust domain> | dial <socket> <trust domain> <address>")
	}
	domain, err := spiffeid.TrustDomainFromString(words[2])
	if err != nil {
		return err
	}
	ctx, at := context.Background(), workloadapi.WithAddr("unix://"+words[1])
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(at))
	if err != nil {
		return err
	}
	defer source.Close()
	go follow(source)
	go workloadapi.WatchX509Context(ctx, watcher{}, at)
	members := tlsconfig.AuthorizeMemberOf(domain)
	if words[0] == "serve" {
		return serve(tlsconfig.MTLSServerConfig(source, source, members))
	}
	jwts, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(at))
	if err != nil {
		return err
	}
	defer jwts.Close()
	return dial(words[3], tlsconfig.MTLSClientConfig(source, source, members), jwts)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}
