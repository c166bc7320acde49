// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"errors"
	"strings"
	"time"
	_ "time/tzdata" // so that a zone's name does not depend on the host
)

// timeLayouts lists the layouts of a point in time that vendors use. Fractions of a second are accepted after the seconds of
// each. Those without a zone need [Response.TimeZone].
func timeLayouts() []string {
	return []string{
		time.RFC3339,               // 2026-01-31T15:04:05Z, 2026-01-31T15:04:05+01:00
		"2006-01-02T15:04:05Z0700", // without a colon in the offset
		"2006-01-02 15:04:05Z07:00",
		"2006-01-02 15:04:05Z0700",
		"2006-01-02 15:04:05 Z07:00",
		"2006-01-02 15:04:05 Z0700",
		"2006-01-02 15:04:05 MST",
		time.RFC1123, // Sat, 31 Jan 2026 15:04:05 GMT
		time.RFC1123Z,
		time.RFC850,
		"20060102150405Z07:00",
		"20060102150405Z0700",
		"20060102T150405Z07:00",
	}
}

// localLayouts lists the layouts without a zone.
func localLayouts() []string {
	return []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006/01/02 15:04:05", "20060102150405", "20060102T150405"}
}

var errNoZone = errors.New("names no time zone")

// parseTime parses a point in time.
func parseTime(text, zone string) (time.Time, error) {
	for _, layout := range timeLayouts() {
		at, err := time.Parse(layout, text)
		if err == nil && (!strings.Contains(layout, "MST") || strings.HasSuffix(text, "GMT") || strings.HasSuffix(text, "UTC")) {
			return at, nil // the time package accepts any abbreviation of a zone, with the host's offset or none
		}
	}
	for _, layout := range localLayouts() {
		if _, err := time.Parse(layout, text); err != nil {
			continue
		}
		if zone == "" {
			return time.Time{}, errNoZone
		}
		location, err := loadZone(zone)
		if err != nil {
			return time.Time{}, err
		}
		return time.ParseInLocation(layout, text, location)
	}
	return time.Time{}, errors.New("is in no known layout")
}

// loadZone returns a time zone, from its offset or its name. Empty is UTC.
func loadZone(name string) (*time.Location, error) {
	if at, err := time.Parse("Z07:00", name); err == nil {
		_, offset := at.Zone()
		return time.FixedZone("", offset), nil
	}
	if name == "Local" {
		return nil, errors.New("is the host's own")
	}
	return time.LoadLocation(name)
}
