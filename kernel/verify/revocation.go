package verify

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/notaryproject/notation-core-go/revocation"
	"github.com/notaryproject/notation-core-go/revocation/crl"
	"github.com/notaryproject/notation-core-go/revocation/purpose"
	"github.com/notaryproject/notation-go/verifier"
)

// revocations asks for the revocation of certificates where they say. That is
// written by who made them, so only public and private hosts are asked, and no
// service of this very machine or of its link.
func revocations() (verifier.VerifierOptions, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second, Control: refuseLocal}).DialContext, DisableKeepAlives: true,
		ResponseHeaderTimeout: 5 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}}
	lists, err := crl.NewHTTPFetcher(client)
	if err != nil {
		return verifier.VerifierOptions{}, fmt.Errorf("prepare revocation: %w", err)
	}
	var o verifier.VerifierOptions
	if o.RevocationCodeSigningValidator, err = revocation.NewWithOptions(revocation.Options{
		OCSPHTTPClient: client, CRLFetcher: lists, CertChainPurpose: purpose.CodeSigning,
	}); err == nil {
		o.RevocationTimestampingValidator, err = revocation.NewWithOptions(revocation.Options{
			OCSPHTTPClient: client, CRLFetcher: lists, CertChainPurpose: purpose.Timestamping,
		})
	}
	if err != nil {
		return verifier.VerifierOptions{}, fmt.Errorf("prepare revocation: %w", err)
	}
	return o, nil
}

// refuseLocal is asked with the address that is about to be dialled.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Unmap().IsGlobalUnicast() {
		return errors.New("revocation is not asked for at this address")
	}
	return nil
}
