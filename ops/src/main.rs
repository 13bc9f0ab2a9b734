//! The binary `coldstream`.
fn main() {}
