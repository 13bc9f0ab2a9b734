//! The objects on S3, and a store that lies, for tests.
