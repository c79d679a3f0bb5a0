package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// Config is how the pages present their organisation, as the operator writes it.
type Config struct {
	// Title is the organisation's or the service's name. Default "Workspace tokens".
	Title string `config:"title"`
	// LogoFile names a picture (SVG, PNG, JPEG or WebP, at most 100 kB) that stands before the title, 30 pixels high.
	LogoFile string `config:"logo_file"`
	// SupportURL is where people find help: an https or mailto address.
	SupportURL string `config:"support_url"`
	// Colour is the one accent, as #rrggbb. It has to be dark enough for white text on it; what a dark page needs
	// follows from it.
	Colour string `config:"colour"`
}

const (
	maxTitle = 60        // bytes
	maxLogo  = 100 << 10 // bytes
	// minContrast is that of text of normal size (WCAG 2.2, 1.4.3).
	minContrast = 4.5
	ownColour   = "#1f5fd1"
)

var isColour = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`).MatchString

// Validate reports every fault at once, each with the name of its field.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("page."+format, args...)) }
	if len(c.Title) > maxTitle {
		fault("title: has %d bytes, want at most %d", len(c.Title), maxTitle)
	}
	if parsed, err := url.Parse(c.SupportURL); c.SupportURL != "" && (err != nil || parsed.Scheme != "mailto" && (parsed.Host == "" || parsed.Scheme != "https" && parsed.Scheme != "http")) {
		fault("support_url: is %q, want an address like https://help.example.org or mailto:help@example.org", c.SupportURL)
	}
	switch {
	case c.Colour == "":
	case !isColour(c.Colour):
		fault("colour: is %q, want one like %s", c.Colour, ownColour)
	case contrast(c.Colour, "#ffffff") < minContrast:
		fault("colour: %s has a contrast of %.1f with the white text that stands on it, want at least %.1f; take a darker one", c.Colour, contrast(c.Colour, "#ffffff"), minContrast)
	}
	if c.LogoFile != "" {
		if _, _, err := readLogo(c.LogoFile); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// readLogo reads the picture and says what kind it is.
func readLogo(path string) (content []byte, kind string, err error) {
	content, err = os.ReadFile(path)
	if err != nil {
		return nil, "", fmt.Errorf("page.logo_file: %w", err)
	}
	kind = http.DetectContentType(content)
	if strings.HasSuffix(path, ".svg") && strings.Contains(string(content), "<svg") {
		kind = "image/svg+xml"
	}
	switch {
	case len(content) > maxLogo:
		return nil, "", fmt.Errorf("page.logo_file: %s has %d bytes, want at most %d", path, len(content), maxLogo)
	case kind != "image/svg+xml" && kind != "image/png" && kind != "image/jpeg" && kind != "image/webp":
		return nil, "", fmt.Errorf("page.logo_file: %s is no SVG, PNG, JPEG or WebP picture", path)
	}
	return content, kind, nil
}

//go:embed assets
var embedded embed.FS

// asset is a file that pages refer to.
type asset struct {
	content      []byte
	kind, digest string
}

// load makes the assets, with the colour and the picture of the configuration.
func (s *Site) load(config Config) error {
	colour := config.Colour
	if colour == "" {
		colour = ownColour
	}
	pale := lighten(colour)
	colours := strings.NewReplacer("$accent", colour, "$pale", pale)
	for name, kind := range map[string]string{"wts.css": "text/css; charset=utf-8", "wts.js": "text/javascript; charset=utf-8", "mark.svg": "image/svg+xml"} {
		content, err := embedded.ReadFile("assets/" + name)
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		path := s.add(name, kind, []byte(colours.Replace(string(content))))
		switch name {
		case "wts.css":
			s.Style = path
		case "wts.js":
			s.Script = path
		default:
			s.Mark, s.Icon = path, path
		}
	}
	if config.LogoFile == "" {
		return nil
	}
	content, kind, err := readLogo(config.LogoFile)
	if err != nil {
		return err
	}
	s.Mark = s.add("logo.img", kind, content)
	s.Icon = s.Mark
	return nil
}

// add keeps an asset, and says at which path it is served.
func (s *Site) add(name, kind string, content []byte) string {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:6])
	s.assets[name] = asset{content, kind, digest}
	stem, extension, _ := strings.Cut(name, ".")
	return "/static/" + stem + "." + digest + "." + extension
}

// rgb are the parts of a colour, from 0 to 255.
func rgb(colour string) (parts [3]float64) {
	for i := range parts {
		value, _ := strconv.ParseUint(colour[1+2*i:3+2*i], 16, 8) // it was validated
		parts[i] = float64(value)
	}
	return parts
}

// luminance is that of WCAG 2.2.
func luminance(colour string) float64 {
	sum := 0.0
	for i, part := range rgb(colour) {
		part /= 255
		if part <= 0.04045 {
			part /= 12.92
		} else {
			part = math.Pow((part+0.055)/1.055, 2.4)
		}
		sum += part * [3]float64{0.2126, 0.7152, 0.0722}[i]
	}
	return sum
}

// contrast is the contrast ratio of WCAG 2.2, 1 to 21.
func contrast(a, b string) float64 {
	high, low := luminance(a), luminance(b)
	if high < low {
		high, low = low, high
	}
	return (high + 0.05) / (low + 0.05)
}

// lighten is the accent on dark pages: as much lighter as links on their cards need to be read.
func lighten(colour string) string {
	const card, enough = "#181b22", 7
	light := colour
	for mix := 0.0; mix <= 1 && contrast(light, card) < enough; mix += 0.05 {
		parts := rgb(colour)
		for i := range parts {
			parts[i] += (255 - parts[i]) * mix
		}
		light = fmt.Sprintf("#%02x%02x%02x", int(parts[0]), int(parts[1]), int(parts[2]))
	}
	return light
}
