package proxy

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
)

// Users are names with their passwords.
type Users map[string]string

// ParseUsers reads lines of NAME:PASSWORD. Empty lines, and lines that begin
// with #, do not count. Errors name the line and not what is in it.
func ParseUsers(text string) (Users, error) {
	users := Users{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, password, ok := strings.Cut(line, ":")
		switch {
		case !ok || name == "" || password == "":
			return nil, fmt.Errorf("line %d: not NAME:PASSWORD", i+1)
		case len(name) > 255 || len(password) > 255: // RFC 1929
			return nil, fmt.Errorf("line %d: a name or password of more than 255 bytes", i+1)
		case users[name] != "":
			return nil, fmt.Errorf("line %d: the name is there twice", i+1)
		}
		users[name] = password
	}
	if len(users) == 0 {
		return nil, errors.New("no NAME:PASSWORD in it")
	}
	return users, nil
}

// has reports whether the password is right, in a time that does not depend on
// what it is.
func (u Users) has(name, password string) bool {
	want, known := u[name]
	a, b := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && known
}
