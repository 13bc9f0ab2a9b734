//! Ed25519 keys with a name: who signed what. Keys are written as C2SP signed-note keys.
