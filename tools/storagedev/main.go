// Command storagedev is the object storages that tests of Buckets speak to:
// `storagedev s3` is a gateway with the API of S3 that checks every signature,
// `storagedev gcs` has the API of Google Cloud Storage.
//
// It is a module of its own so that neither enters the product's go.mod. The
// development tools build it once and cache the result.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api"
	"github.com/versity/versitygw/s3api/middlewares"
)

// options are what both storages take.
type options struct {
	dir, addr, access, secret, region string
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "storagedev:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want s3 or gcs as the first argument")
	}
	var o options
	f := flag.NewFlagSet(args[0], flag.ContinueOnError)
	f.StringVar(&o.dir, "dir", "", "folder that holds a folder for each bucket")
	f.StringVar(&o.addr, "listen", "127.0.0.1:0", "address to listen on")
	f.StringVar(&o.region, "region", "us-east-1", "region of s3")
	o.access, o.secret = os.Getenv("S3_ACCESS_KEY"), os.Getenv("S3_SECRET_KEY")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "s3":
		return s3(o)
	case "gcs":
		return gcs(o)
	}
	return fmt.Errorf("unknown storage %q: want s3 or gcs", args[0])
}

// s3 serves the folder with the API of S3; signatures are those of one account.
func s3(o options) error {
	data, metadata := o.dir+"/data", o.dir+"/meta"
	for _, d := range []string{data, metadata} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	sidecar, err := meta.NewSideCar(metadata)
	if err != nil {
		return err
	}
	files, err := posix.New(data, sidecar, posix.PosixOpts{SideCarDir: metadata})
	if err != nil {
		return err
	}
	account := auth.Account{Access: o.access, Secret: o.secret, Role: auth.RoleAdmin}
	server, err := s3api.New(files, middlewares.RootUserConfig{Access: o.access, Secret: o.secret}, o.region,
		auth.NewIAMServiceSingle(account), nil, nil, nil, nil, s3api.WithQuiet(), s3api.WithConcurrencyLimiter(1000, 1000))
	if err != nil {
		return err
	}
	return server.ServeMultiPort([]string{o.addr})
}

// gcs serves the folder with the JSON API of Google Cloud Storage. It checks no
// credentials.
func gcs(o options) error {
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{StorageRoot: o.dir, NoListener: true})
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, os.Interrupt)
	ended := make(chan error, 1)
	go func() { ended <- http.ListenAndServe(o.addr, server.HTTPHandler()) }()
	select {
	case err := <-ended:
		return err
	case <-stop:
		return nil
	}
}
