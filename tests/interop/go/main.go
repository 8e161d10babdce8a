// Command verify reads one exported log with nothing of Mintage: the checkpoint with golang.org/x/mod/sumdb/note, the
// hashes with golang.org/x/mod/sumdb/tlog. It hashes every entry bundle, builds the tree, compares its root and every
// tile, and proves each record through the tiles. It prints the number of records, or ends with code 1.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// The height of a tile: 256 hashes.
const height = 8

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: verify <log folder> <verifier key>")
		os.Exit(2)
	}
	size, err := verify(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(size)
}

// path is where C2SP tlog-tiles has a tile: Go's path names the height, the specification's does not.
func path(dir string, t tlog.Tile) string {
	below := strings.TrimPrefix(t.Path(), fmt.Sprintf("tile/%d/", height))
	below = strings.Replace(below, "data/", "entries/", 1)
	return filepath.Join(dir, "tile", filepath.FromSlash(below))
}

// head opens the checkpoint and reads its three lines.
func head(dir, vkey string) (tlog.Tree, error) {
	text, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		return tlog.Tree{}, err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tlog.Tree{}, err
	}
	opened, err := note.Open(text, note.VerifierList(verifier))
	if err != nil {
		return tlog.Tree{}, err
	}
	origin, rest, _ := strings.Cut(opened.Text, "\n")
	if origin != verifier.Name() {
		return tlog.Tree{}, fmt.Errorf("the checkpoint is of %q", origin)
	}
	// Go's own reader wants its own first line.
	return tlog.ParseTree([]byte("go.sum database tree\n" + rest))
}

// records reads the bundle of a tile at level -1.
func records(dir string, t tlog.Tile) ([][]byte, error) {
	data, err := os.ReadFile(path(dir, t))
	if err != nil {
		return nil, err
	}
	var found [][]byte
	for len(data) > 0 {
		if len(data) < 2 {
			return nil, fmt.Errorf("%s ends within a length", t.Path())
		}
		length := int(binary.BigEndian.Uint16(data))
		data = data[2:]
		if len(data) < length {
			return nil, fmt.Errorf("%s ends within a record", t.Path())
		}
		found = append(found, data[:length])
		data = data[length:]
	}
	if len(found) != t.W {
		return nil, fmt.Errorf("%s has %d records", t.Path(), len(found))
	}
	return found, nil
}

// stored keeps every hash of the tree that is built here.
type stored []tlog.Hash

func (s *stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(*s)) {
			return nil, fmt.Errorf("hash %d is not stored", index)
		}
		found[i] = (*s)[index]
	}
	return found, nil
}

// tiles reads the tiles of the folder, for tlog's own reader.
type tiles struct{ dir string }

func (tiles) Height() int { return height }

func (r tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	found := make([][]byte, len(wanted))
	for i, t := range wanted {
		data, err := os.ReadFile(path(r.dir, t))
		if err != nil {
			return nil, err
		}
		if len(data) != t.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", t.Path(), len(data))
		}
		found[i] = data
	}
	return found, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

func verify(dir, vkey string) (int64, error) {
	tree, err := head(dir, vkey)
	if err != nil {
		return 0, err
	}
	var built stored
	for first := int64(0); first < tree.N; first += 1 << height {
		width := min(tree.N-first, 1<<height)
		bundle, err := records(dir, tlog.Tile{H: height, L: -1, N: first >> height, W: int(width)})
		if err != nil {
			return 0, err
		}
		for i, record := range bundle {
			hashes, err := tlog.StoredHashes(first+int64(i), record, &built)
			if err != nil {
				return 0, err
			}
			built = append(built, hashes...)
		}
	}
	root, err := tlog.TreeHash(tree.N, &built)
	if err != nil {
		return 0, err
	}
	if root != tree.Hash {
		return 0, fmt.Errorf("the records have the root %v, the checkpoint %v", root, tree.Hash)
	}
	for _, t := range tlog.NewTiles(height, 0, tree.N) {
		wanted, err := tlog.ReadTileData(t, &built)
		if err != nil {
			return 0, err
		}
		data, err := os.ReadFile(path(dir, t))
		if err != nil {
			return 0, err
		}
		if !bytes.Equal(data, wanted) {
			return 0, fmt.Errorf("%s is not the tile of the records", t.Path())
		}
	}
	reader := tlog.TileHashReader(tree, tiles{dir})
	for index := int64(0); index < tree.N; index++ {
		proof, err := tlog.ProveRecord(tree.N, index, reader)
		if err != nil {
			return 0, err
		}
		leaf := built[tlog.StoredHashIndex(0, index)]
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, leaf); err != nil {
			return 0, err
		}
	}
	return tree.N, nil
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}
