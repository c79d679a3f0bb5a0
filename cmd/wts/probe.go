package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/workspace-token-service/wts/api"
	"github.com/workspace-token-service/wts/config"
)

const probePatience = 4 * time.Second

// healthCommand is for containers whose image has no other program to ask with.
func healthCommand(file *string) *cobra.Command {
	var at string
	command := &cobra.Command{
		Use: "health", Short: "Ask whether the service on this machine is ready", Args: cobra.NoArgs,
		Long: "Asks /readyz of the service that serves this configuration on this machine, or at --url. It succeeds where the service is ready, for a container's health check.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), probePatience)
			defer cancel()
			if at != "" {
				if err := checkURL(at); err != nil {
					return err
				}
				return ready(ctx, http.DefaultClient, at, cmd)
			}
			loaded, err := config.LoadForDatabase(*file, os.Environ())
			if err != nil {
				return err
			}
			return ownReady(ctx, loaded, cmd)
		},
	}
	command.Flags().StringVar(&at, "url", "", "ask the service there instead")
	return command
}

// ownReady asks at each address of a configuration until one answers: the service passes over those that it may not open.
func ownReady(ctx context.Context, loaded config.Config, cmd *cobra.Command) (err error) {
	scheme := "http"
	if loaded.Server.TLS.CertFile != "" {
		scheme = "https"
	}
	client := &http.Client{Transport: &http.Transport{ // its certificate is not for the loopback address
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // it is asked nothing but whether it is ready
	}}
	for _, address := range loaded.Server.Listen {
		host, port, wrong := net.SplitHostPort(address)
		if wrong != nil {
			return fmt.Errorf("listen: %w", wrong)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		if err = ready(ctx, client, scheme+"://"+net.JoinHostPort(host, port), cmd); err == nil || !unanswered(err) {
			return err
		}
	}
	return err
}

// ready asks a service whether it is.
func ready(ctx context.Context, client *http.Client, at string, cmd *cobra.Command) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(at, "/")+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("the service's address: %w", err)
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return &api.Error{Status: response.StatusCode, Message: "it is not ready"}
	}
	return say(cmd, map[string]bool{"ready": true}, "ready")
}

// checkURL wants the address of a service.
func checkURL(at string) error {
	parsed, err := url.Parse(at)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return usagef("--url: got %q, want an address like http://wts.wts", at)
	}
	return nil
}

// checkToken wants a file with a token that is valid.
func checkToken(path string) error {
	text, err := tokenIn(path)
	if err != nil {
		return err
	}
	if ends := endOf(api.Token{Value: text}); !ends.IsZero() && !time.Now().Before(ends) {
		return fmt.Errorf("the token in %s expired at %s", path, ends.UTC().Format(time.RFC3339))
	}
	return nil
}

// tokenIn reads the token that a file holds.
func tokenIn(path string) (string, error) {
	text, err := api.ProofFile(path)()
	switch {
	case err != nil:
		return "", fmt.Errorf("the token's file: %w", errors.Unwrap(err))
	case text == "":
		return "", fmt.Errorf("the token's file: %s is empty", path)
	}
	return text, nil
}

// configFile is the configuration that is read where none is named.
func configFile() string { return cmp.Or(os.Getenv("WTS_CONFIG"), config.DefaultFile) }
