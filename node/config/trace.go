package config

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// ParseTraceEndpoint takes apart where traces go: the scheme is http, https, grpc or grpcs, and
// rest HOST:PORT with the path, if any; or it is file, and rest the path. What it says is wrong
// holds nothing of the text.
func ParseTraceEndpoint(endpoint string) (scheme, rest string, err error) {
	scheme, rest, ok := strings.Cut(endpoint, ":")
	switch {
	case ok && scheme == "file" && strings.TrimPrefix(rest, "//") != "":
		return scheme, strings.TrimPrefix(rest, "//"), nil
	case ok && (scheme == "http" || scheme == "https" || scheme == "grpc" || scheme == "grpcs"):
		u, err := url.Parse(endpoint)
		if err != nil || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" ||
			strings.HasPrefix(scheme, "grpc") && strings.Trim(u.Path, "/") != "" {
			return "", "", fmt.Errorf("must be %s://HOST:PORT", scheme)
		}
		return scheme, u.Host + strings.TrimSuffix(u.Path, "/"), nil
	default:
		return "", "", errors.New("must be http://HOST:PORT, https://…, grpc://HOST:PORT, grpcs://… or file:PATH")
	}
}

// traceValue is where traces go; it may be empty.
type traceValue struct{ p *string }

func (v *traceValue) Set(s string) error {
	if s != "" {
		if _, _, err := ParseTraceEndpoint(s); err != nil {
			return err
		}
	}
	*v.p = s
	return nil
}

func (v *traceValue) String() string { return *v.p }

// sampleValue is a share, from 0 up to all, as a number or in per cent.
type sampleValue struct{ p *float64 }

func (v *sampleValue) Set(s string) error {
	number, percent := strings.CutSuffix(s, "%")
	f, err := strconv.ParseFloat(number, 64)
	if percent {
		f /= 100
	}
	if err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("must be from 0%% to 100%%, not %q", s)
	}
	*v.p = f
	return nil
}

func (v *sampleValue) String() string { return strconv.FormatFloat(*v.p*100, 'g', -1, 64) + "%" }
