package gitserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strings"

	"golang.org/x/crypto/ssh"
)

// What Git clients ask for: git-upload-pack '/name.git', with or without quotes and slash.
var execPattern = regexp.MustCompile(`^git[- ](upload-pack|receive-pack) '?/?([^']+?)'?$`)

// session serves one channel: environment first, then exactly one command.
func (s *sshServer) session(ctx context.Context, who identity, ch ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = ch.Close() }()
	protocol := ""
	for req := range requests {
		switch req.Type {
		case "env":
			var kv struct{ Name, Value string }
			ok := ssh.Unmarshal(req.Payload, &kv) == nil && kv.Name == "GIT_PROTOCOL"
			if ok {
				protocol = kv.Value
			}
			_ = req.Reply(ok, nil)
		case "exec":
			var cmd struct{ Line string }
			ok := ssh.Unmarshal(req.Payload, &cmd) == nil
			_ = req.Reply(ok, nil)
			if !ok {
				return
			}
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			go func() { // the end of the requests is the end of the channel
				defer cancel()
				ssh.DiscardRequests(requests)
			}()
			status := s.execute(ctx, who, ch, sshCommand{line: cmd.Line, protocol: protocol})
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			return
		case "shell":
			_ = req.Reply(true, nil)
			fmt.Fprintf(ch.Stderr(), "Hello %s. There is no shell here, only Git.\n", who.Name)
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{1}))
			return
		default:
			_ = req.Reply(false, nil)
		}
	}
}

type sshCommand struct {
	line, protocol string
}

// execute runs the command of a session and returns its exit status.
func (s *sshServer) execute(ctx context.Context, who identity, ch ssh.Channel, c sshCommand) uint32 {
	p, err := s.authorise(who, c.line)
	if err != nil {
		fmt.Fprintf(ch.Stderr(), "%v\n", err)
		return 128
	}
	if fault, hit := s.server.Take("/" + p.repo + ".git/" + p.service); hit {
		if fault.Hang {
			<-ctx.Done()
		}
		fmt.Fprintln(ch.Stderr(), "the server is told to fail")
		return 128
	}
	if p.service != uploadPack {
		c.protocol = ""
	}
	s.server.counts.advertised(p, isVersion2(c.protocol))
	cmd := s.server.process(ctx, strings.TrimPrefix(p.service, "git-"), p.dir)
	cmd.Env = append(cmd.Env, protocolEnv(c.protocol))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 128
	}
	cmd.Stdout, cmd.Stderr = s.server.counts.sending(p, ch), ch.Stderr()
	if err := cmd.Start(); err != nil {
		return 128
	}
	go func() { // ends at the latest with the channel; Wait must not wait for it, as clients keep their end open
		_, _ = io.Copy(stdin, s.server.counts.receiving(p, ch))
		_ = stdin.Close()
	}()
	if err := cmd.Wait(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > 0 {
			return uint32(exit.ExitCode())
		}
		return 128
	}
	return 0
}

// authorise turns a command line into a run of git that this identity may have. Nothing else can be run.
func (s *sshServer) authorise(who identity, line string) (pack, error) {
	m := execPattern.FindStringSubmatch(line)
	if m == nil {
		return pack{}, errors.New("only git-upload-pack and git-receive-pack can be run here")
	}
	p := pack{repo: strings.TrimSuffix(m[2], ".git"), service: "git-" + m[1]}
	dir, err := s.server.existing(p.repo)
	if err != nil || who.anonymous() || !who.may(p.repo, false, isPrivate(dir)) {
		return pack{}, fmt.Errorf("repository %q not found", p.repo)
	}
	if !who.may(p.repo, p.service == receivePack, isPrivate(dir)) {
		return pack{}, fmt.Errorf("%s may not push to %q", who.Name, p.repo)
	}
	p.dir = dir
	return p, nil
}
