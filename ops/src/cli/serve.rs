//! `coldstream serve`: from its start to its end by SIGTERM or SIGINT, and what a SIGHUP changes meanwhile.

use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::output::CliError;
use crate::chain::chain;
use crate::dev::kill_at;
use crate::serve::Server;
use crate::telemetry::Filter;

pub(super) async fn serve(context: &Context) -> Result<(), CliError> {
    serve_to_the_end(context).await.map_err(|error| {
        // Whoever reads the log as JSON gets no line that is none.
        let logged = context.config.telemetry.json && tracing::enabled!(tracing::Level::ERROR);
        if !logged {
            return error;
        }
        tracing::error!(error = error.line(), "ended");
        CliError::Logged(Box::new(error))
    })
}

async fn serve_to_the_end(context: &Context) -> Result<(), CliError> {
    // Before anything is started: a signal that comes during the start is not lost, and a SIGHUP kills nobody.
    let ending = asked_to_end().map_err(CliError::failed("listening for signals"))?;
    let mut told = signal(SignalKind::hangup()).map_err(CliError::failed("listening for signals"))?;
    tokio::pin!(ending);
    let steps = kill_at::observer(std::env::var(kill_at::VARIABLE).ok().as_deref()).map_err(CliError::Usage)?;
    let mut server = Server::start_watched(&context.config, steps).await.map_err(CliError::failed("starting"))?;
    loop {
        tokio::select! {
            () = &mut ending => {
                tracing::info!("ending: what was accepted is answered, what was not is refused");
                // A second signal: whoever sent it waits for no balancer.
                let again = asked_to_end().map_err(CliError::failed("listening for signals"))?;
                server.leave(again).await;
                break;
            }
            () = server.broke() => {
                tracing::error!("ending: a part of this process broke, it has to be started again");
                break;
            }
            _ = told.recv() => reload(context, &mut server),
        }
    }
    server.stop().await.map_err(CliError::failed("ending in good order"))
}

/// Reads the configuration again. All that can change while a region serves is changed, or nothing of it.
fn reload(context: &Context, server: &mut Server) {
    let mut read = || {
        let config = context.source.load().map_err(|error| chain(&error))?;
        let filter = Filter::of(&config.telemetry).map_err(|error| chain(&error))?;
        let needs_restart = server.reload(config).map_err(|error| chain(&error))?;
        Ok::<_, String>((filter, needs_restart))
    };
    match read() {
        Ok((filter, needs_restart)) => {
            context.telemetry.change(filter);
            tracing::info!(
                "the configuration was read again, and what can change while this process serves is in force"
            );
            if !needs_restart.is_empty() {
                tracing::warn!(settings = needs_restart.join(", "), "needs a restart: these settings are as they were");
            }
        }
        Err(error) => {
            tracing::error!(error, "the new configuration is refused as a whole, the one before stays in force")
        }
    }
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
