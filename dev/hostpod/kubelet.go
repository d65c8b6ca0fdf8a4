package hostpod

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// apiServer is the name in the certificate with which an API server comes to its kubelets.
const apiServer = "kube-apiserver-kubelet-client"

// Kubelet says where to answer the API server's questions to the simulated
// node: what makes kubectl logs work for our own programs.
type Kubelet struct {
	// Port of 127.0.0.1 to listen on, as the node's status has it.
	Port int
	// Cert and Key are files with the node's serving certificate.
	Cert, Key string
	// ClientCA is the file with the authority of the API server's client certificate. Nobody else is answered.
	ClientCA string
}

// serve answers until the context is cancelled.
func (r *Runner) serve(ctx context.Context, k Kubelet) error {
	config, err := k.tls()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address(k.Port))
	if err != nil {
		return fmt.Errorf("listen as kubelet: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", r.handleLogs)
	server := &http.Server{
		Handler: mux, TLSConfig: config, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // ends those that follow a log as well
	defer stop()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve as kubelet: %w", err)
	}
	return nil
}

// tls admits the API server only.
func (k Kubelet) tls() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(k.Cert, k.Key)
	if err != nil {
		return nil, fmt.Errorf("read kubelet certificate: %w", err)
	}
	pem, err := os.ReadFile(k.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("read client authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", k.ClientCA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		VerifyConnection: func(s tls.ConnectionState) error {
			if name := s.PeerCertificates[0].Subject.CommonName; name != apiServer {
				return fmt.Errorf("client %q is not the API server", name)
			}
			return nil
		},
	}, nil
}

// handleLogs writes the log of the process that a pod stands for.
func (r *Runner) handleLogs(w http.ResponseWriter, request *http.Request) {
	file, ok := r.logOf(request.PathValue("namespace"), request.PathValue("pod"))
	if !ok {
		http.Error(w, "this node is simulated: the pod does not run, so it has no log", http.StatusNotFound)
		return
	}
	query := request.URL.Query()
	if query.Get("previous") == "true" {
		http.Error(w, "the log of earlier runs is in the same file, leave out --previous: "+file, http.StatusBadRequest)
		return
	}
	log, err := os.Open(file)
	if err != nil {
		http.Error(w, "the process has not started yet, see dev status", http.StatusNotFound)
		return
	}
	defer log.Close()
	content, err := io.ReadAll(log)
	if err != nil {
		http.Error(w, "read log: "+err.Error(), http.StatusInternalServerError)
		return
	}
	if lines, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		content = lastLines(content, lines)
	}
	_, err = w.Write(content)
	for err == nil && query.Get("follow") == "true" && request.Context().Err() == nil {
		_ = http.NewResponseController(w).Flush() // fails as the next write does
		select {
		case <-request.Context().Done():
		case <-time.After(100 * time.Millisecond):
			_, err = io.Copy(w, log)
		}
	}
}

// logOf returns the log file of the Deployment that a pod belongs to by its name.
func (r *Runner) logOf(namespace, pod string) (string, bool) {
	file, longest := "", 0
	for _, p := range r.running() {
		name := p.deployment.Name
		if p.deployment.Namespace == namespace && strings.HasPrefix(pod, name+"-") && len(name) > longest {
			file, longest = p.log, len(name)
		}
	}
	return file, longest > 0
}

// lastLines returns the last n lines.
func lastLines(content []byte, n int) []byte {
	end := len(bytes.TrimSuffix(content, []byte("\n")))
	if n <= 0 {
		return nil
	}
	for start := end; ; n-- {
		start = bytes.LastIndexByte(content[:start], '\n')
		if start < 0 {
			return content
		}
		if n == 1 {
			return content[start+1:]
		}
	}
}
