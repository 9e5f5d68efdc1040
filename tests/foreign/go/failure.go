package main

import (
	"fmt"
	"time"
)

const (
	// What has not come about by then never will.
	limit = 100 * time.Second
	// How often is looked.
	pause = 50 * time.Millisecond
)

// A proof that failed. It ends in panic, so that proofs are told without an if after every line.
type failure struct{ error }

func require(holds bool, format string, args ...any) {
	if !holds {
		panic(failure{fmt.Errorf(format, args...)})
	}
}

func equal[T comparable](what string, got, want T) {
	require(got == want, "%s is %v, not %v", what, got, want)
}

func succeed(err error) {
	require(err == nil, "%w", err)
}

func must[T any](value T, err error) T {
	succeed(err)
	return value
}

// Tries something once.
func try(prove func()) (err error) {
	defer func() {
		switch reason := recover().(type) {
		case nil:
		case failure:
			err = reason.error
		default:
			panic(reason)
		}
	}()
	prove()
	return nil
}

// Tries something until it succeeds: what comes about by itself comes in its own time.
func eventually(prove func()) {
	for end := time.Now().Add(limit); ; time.Sleep(pause) {
		err := try(prove)
		if err == nil {
			return
		}
		require(time.Now().Before(end), "not within %s: %w", limit, err)
	}
}
