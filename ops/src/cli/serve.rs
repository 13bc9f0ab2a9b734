//! `coldstream serve`.

use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::output::CliError;
use crate::dev::kill_at;
use crate::serve::Server;

pub(super) async fn serve(context: &Context) -> Result<(), CliError> {
    // Before anything is started: a signal that comes during the start is not lost.
    let asked_to_end = asked_to_end().map_err(CliError::failed("listening for signals"))?;
    let steps = kill_at::observer(std::env::var(kill_at::VARIABLE).ok().as_deref()).map_err(CliError::Usage)?;
    let mut server = Server::start_watched(&context.config, steps).await.map_err(CliError::failed("starting"))?;
    tokio::select! {
        () = asked_to_end => tracing::info!("ending: what was accepted is answered, what was not is refused"),
        () = server.broke() => tracing::error!("ending: a part of this process broke, it has to be started again"),
    }
    server.stop().await.map_err(CliError::failed("ending in good order"))
}

/// Ready once SIGTERM or SIGINT has come.
///
/// # Errors
/// If signals cannot be listened for.
pub(super) fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
