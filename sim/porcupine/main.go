// Judges histories of a key-value store with porcupine, so that the verdicts of the simulation's own checker can be
// compared with those of another one.
//
//	go run . FOLDER
//
// prints a line for every *.jsonl in the folder, "NAME ok" or "NAME broken". The format of a history is told in
// sim/README.md, section "A history as a file".
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// A checker that does not come to an end has no opinion.
const patience = 2 * time.Minute

type line struct {
	Client          int
	Operation       string
	Key             string
	Value           uint64
	IfRevision      *uint64 `json:"if_revision"`
	Stale           bool
	AtRevision      *uint64 `json:"at_revision"`
	Invoked         int64
	Returned        *int64
	Outcome         string
	Revision        *uint64
	Existed         *bool
	PresentRevision *uint64 `json:"present_revision"`
	Read            []item
}

type item struct {
	Key         string
	Value       uint64
	ModRevision uint64 `json:"mod_revision"`
}

// What a key holds. The zero value: nothing.
type state struct {
	value uint64
	// The revision that wrote the value; 0: nobody has been told yet.
	revision uint64
}

// An operation on one key.
type input struct {
	kind      string
	value     uint64
	condition *uint64
	refusedAt *uint64
	existed   *bool
	unknown   bool
}

// What is known of revisions from anywhere in a history.
type revisions struct {
	of    map[uint64]uint64
	taken map[uint64]bool
}

func learn(lines []line) revisions {
	known := revisions{of: map[uint64]uint64{}, taken: map[uint64]bool{}}
	tell := func(value, revision uint64) {
		if _, told := known.of[value]; !told {
			known.of[value] = revision
			known.taken[revision] = true
		}
	}
	for _, l := range lines {
		if l.Operation == "set" && l.Outcome == "ok" {
			tell(l.Value, *l.Revision)
		}
	}
	for _, l := range lines {
		for _, read := range l.Read {
			tell(read.Value, read.ModRevision)
		}
	}
	return known
}

// Whether the key may be at a revision, and what it holds if it is.
func (known revisions) at(held state, revision uint64) (bool, state) {
	if held.value == 0 {
		return revision == 0, held
	}
	if held.revision == 0 {
		if revision == 0 || known.taken[revision] {
			return false, held
		}
		held.revision = revision
	}
	return held.revision == revision, held
}

func (known revisions) step(held state, in input) (bool, state) {
	if in.refusedAt != nil {
		if in.condition == nil || *in.condition == *in.refusedAt {
			return false, held
		}
		return known.at(held, *in.refusedAt)
	}
	if in.condition != nil {
		if met, _ := known.at(held, *in.condition); !met {
			// A write that nobody heard of may have been refused.
			return in.unknown, held
		}
	}
	switch in.kind {
	case "set":
		return true, state{in.value, known.of[in.value]}
	case "delete":
		return in.existed == nil || *in.existed == (held.value != 0), state{}
	default:
		return in.value == held.value, held
	}
}

// The operations of each key. A list is a read of every key that it could have found.
func split(lines []line) map[string][]porcupine.Operation {
	keys := map[string][]porcupine.Operation{}
	for _, l := range lines {
		if l.Operation != "list" {
			keys[l.Key] = nil
		}
		for _, read := range l.Read {
			keys[read.Key] = nil
		}
	}
	for _, l := range lines {
		in := input{kind: l.Operation, value: l.Value, condition: l.IfRevision, existed: l.Existed,
			refusedAt: l.PresentRevision, unknown: l.Outcome == "unknown"}
		says := l.Outcome == "ok" || l.PresentRevision != nil
		writes := l.Operation == "set" || l.Operation == "delete"
		if l.Stale || l.AtRevision != nil || (!says && !(in.unknown && writes)) {
			continue
		}
		returned := int64(math.MaxInt64)
		if l.Returned != nil && !in.unknown {
			returned = *l.Returned
		}
		add := func(key string, in input) {
			keys[key] = append(keys[key], porcupine.Operation{ClientId: l.Client, Input: in, Call: l.Invoked,
				Output: nil, Return: returned})
		}
		switch l.Operation {
		case "get":
			if len(l.Read) > 0 {
				in.value = l.Read[0].Value
			}
			add(l.Key, in)
		case "list":
			found := map[string]uint64{}
			for _, read := range l.Read {
				found[read.Key] = read.Value
			}
			for key := range keys {
				if strings.HasPrefix(key, l.Key) {
					add(key, input{kind: "get", value: found[key]})
				}
			}
		default:
			add(l.Key, in)
		}
	}
	return keys
}

func judge(lines []line) (string, error) {
	known := learn(lines)
	model := porcupine.Model{
		Init: func() interface{} { return state{} },
		Step: func(held, in, out interface{}) (bool, interface{}) {
			return known.step(held.(state), in.(input))
		},
	}
	for key, operations := range split(lines) {
		// Clients' numbers are not used to tell what follows what; here an operation each.
		for place := range operations {
			operations[place].ClientId = place
		}
		switch porcupine.CheckOperationsTimeout(model, operations, patience) {
		case porcupine.Illegal:
			return "broken", nil
		case porcupine.Unknown:
			return "", fmt.Errorf("no verdict about %s after %s", key, patience)
		}
	}
	return "ok", nil
}

func read(path string) ([]line, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var lines []line
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var l line
		if err := json.Unmarshal(scanner.Bytes(), &l); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(lines)+1, err)
		}
		lines = append(lines, l)
	}
	return lines, scanner.Err()
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: judge-check FOLDER")
		os.Exit(2)
	}
	paths, err := filepath.Glob(filepath.Join(os.Args[1], "*.jsonl"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	sort.Strings(paths)
	for _, path := range paths {
		lines, err := read(path)
		verdict := ""
		if err == nil {
			verdict, err = judge(lines)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			os.Exit(1)
		}
		fmt.Println(strings.TrimSuffix(filepath.Base(path), ".jsonl"), verdict)
	}
}
