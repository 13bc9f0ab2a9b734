//! Where a step of the archive ends: a place at which a test can kill the process.

/// Is told of each step that is done, by a name such as `seal.segment`. The names are part of the kill tests.
pub trait StepObserver: Send + Sync {
    /// The step is done and its effect is stored.
    fn reached(&self, step: &'static str);
}

/// Nobody looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl StepObserver for Silent {
    fn reached(&self, _step: &'static str) {}
}
