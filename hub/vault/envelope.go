package vault

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// envelope begins a box that holds a data key, wrapped by a keeper, and what that
// key encrypts. Boxes of hubs before had all of it encrypted by the keeper.
const envelope = "hw-envelope-1\n"

// dataKeyBytes is the length of a data key: AES-256.
const dataKeyBytes = 32

// wrap encrypts with a key of its own, and that key with the first keeper: key
// services take a few hundred bytes or a few thousand, and see no settings.
func (v *Vault) wrap(ctx context.Context, plain []byte) ([]byte, error) {
	key := make([]byte, dataKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a data key: %w", err)
	}
	wrapped, err := v.keys()[0].Encrypt(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("wrap with the hub's key: %w", err)
	}
	box := binary.AppendUvarint([]byte(envelope), uint64(len(wrapped)))
	box = append(box, wrapped...)
	sealer, err := newSealer(key)
	if err != nil {
		return nil, err
	}
	return sealer.Seal(box, nil, plain, box), nil // what is before it belongs to it
}

// newSealer draws a nonce for each message and puts it before it.
func newSealer(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("use a data key: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// unwrap decrypts with whichever key fits and tells whether that was the first.
func (v *Vault) unwrap(ctx context.Context, box []byte) (plain []byte, newest bool, err error) {
	head, wrapped, sealed, ok := parts(box)
	if !ok {
		return v.open(ctx, box)
	}
	key, newest, err := v.open(ctx, wrapped)
	if err != nil {
		return nil, false, err
	}
	sealer, err := newSealer(key)
	if err != nil {
		return nil, false, err
	}
	if plain, err = sealer.Open(nil, nil, sealed, head); err != nil {
		return nil, false, ErrLocked // damaged, which no key mends
	}
	return plain, newest, nil
}

// parts takes an envelope apart: the head holds the wrapped key.
func parts(box []byte) (head, wrapped, sealed []byte, ok bool) {
	rest, ok := bytes.CutPrefix(box, []byte(envelope))
	if !ok {
		return nil, nil, nil, false
	}
	size, n := binary.Uvarint(rest)
	if n <= 0 || size > uint64(len(rest)-n) {
		return nil, nil, nil, false
	}
	end := len(envelope) + n + int(size)
	return box[:end], box[end-int(size) : end], box[end:], true
}

// open asks one keeper after the other.
func (v *Vault) open(ctx context.Context, box []byte) (plain []byte, newest bool, err error) {
	for i, k := range v.keys() {
		if plain, err := k.Decrypt(ctx, box); err == nil {
			return plain, i == 0, nil
		}
	}
	if ctx.Err() != nil {
		return nil, false, ctx.Err()
	}
	return nil, false, ErrLocked
}
