package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// overlay puts environment variables into the tree. Only those whose first word is a setting count:
// Kubernetes puts variables like WTS_SERVICE_HOST into every pod.
func overlay(tree map[string]any, environ []string) {
	known := settings(reflect.TypeFor[Config]())
	for _, variable := range slices.Sorted(slices.Values(environ)) {
		name, value, _ := strings.Cut(variable, "=")
		name, ours := strings.CutPrefix(name, EnvPrefix)
		words := strings.Split(name, "__")
		if !ours || !slices.Contains(known, strings.ToLower(words[0])) {
			continue
		}
		at := tree
		for _, word := range words[:len(words)-1] {
			key := match(at, word)
			next, ok := at[key].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[key] = next
			}
			at = next
		}
		at[match(at, words[len(words)-1])] = value
	}
}

// match finds the key that a word of a variable's name means: ids of providers keep their case and
// their hyphens, which variables cannot have.
func match(tree map[string]any, word string) string {
	for key := range tree {
		if strings.EqualFold(strings.ReplaceAll(key, "-", "_"), word) {
			return key
		}
	}
	return strings.ToLower(word)
}

// settings are the names at the top of the file.
func settings(of reflect.Type) (names []string) {
	for field := range of.Fields() {
		tag := field.Tag.Get("config")
		switch {
		case tag == ",squash":
			names = append(names, settings(field.Type)...)
		case tag != "-":
			names = append(names, tag)
		}
	}
	return names
}

func decode(tree map[string]any) (config Config, err error) {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: &config, TagName: "config", ErrorUnused: true, WeaklyTypedInput: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(durationsHaveUnits, mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToSliceHookFunc(",")),
		MatchName:  func(key, field string) bool { return key == field },
	})
	if err != nil {
		return Config{}, fmt.Errorf("preparing to read the configuration: %w", err)
	}
	if err := decoder.Decode(tree); err != nil {
		return Config{}, plain(err)
	}
	return config, nil
}

// durationsHaveUnits refuses a bare number for a duration: it would count nanoseconds.
func durationsHaveUnits(from, to reflect.Type, value any) (any, error) {
	if to == reflect.TypeFor[time.Duration]() && from.Kind() != reflect.String {
		return nil, fmt.Errorf("is %v, want a number with a unit, like 90s, 10m or 12h", value)
	}
	return value, nil
}
