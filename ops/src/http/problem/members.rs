//! What a problem says beside `kind` and `detail` (extension members, RFC 9457 §3.2): a problem takes these and no
//! others, and the API's document is made of them. It must never hold a value.

use domain::ErrorKind;

/// A further member of a problem. Its value is a text; a number stands in it in decimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// A stream that is not at the expected version.
    Stream,
    /// Its version.
    Actual,
    /// Where the event stands that an append was refused for.
    Position,
    /// Up to where to read before deciding again.
    ReadTo,
    /// Where the log ends.
    Head,
    /// The epoch in force here.
    Epoch,
    /// The newest position that both branches share.
    Fork,
    /// The newest position that is out of the live log.
    Pruned,
    /// Where the view stands.
    Checkpoint,
}

impl Member {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Stream,
        Self::Actual,
        Self::Position,
        Self::ReadTo,
        Self::Head,
        Self::Epoch,
        Self::Fork,
        Self::Pruned,
        Self::Checkpoint,
    ];

    /// Its name in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Actual => "actual",
            Self::Position => "position",
            Self::ReadTo => "read_to",
            Self::Head => "head",
            Self::Epoch => "epoch",
            Self::Fork => "fork",
            Self::Pruned => "pruned",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// Kinds of problems that may have it.
    #[must_use]
    pub fn kinds(self) -> &'static [ErrorKind] {
        match self {
            Self::Stream | Self::Actual | Self::Position | Self::ReadTo => &[ErrorKind::Conflict],
            Self::Head => &[ErrorKind::Conflict, ErrorKind::Invalid, ErrorKind::Unavailable],
            Self::Epoch => &[ErrorKind::Fenced],
            Self::Fork => &[ErrorKind::Forked],
            Self::Pruned => &[ErrorKind::NotFound],
            Self::Checkpoint => &[ErrorKind::Unavailable],
        }
    }

    /// Whether its value is a number.
    #[must_use]
    pub fn is_number(self) -> bool {
        self != Self::Stream
    }

    /// When it is there, and what it says.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Stream => "Where a stream is not at the expected version: its name",
            Self::Actual => "Where a stream is not at the expected version: the one that it has; 0: it has no event",
            Self::Position => {
                "Where the event stands that an append was refused for: one with the same id, or one that a condition \
                 excludes"
            }
            Self::ReadTo => {
                "Where a condition's position is too old to be told: read up to here, decide again and name this \
                 position or a later one"
            }
            Self::Head => "Where a position is named that this log has not reached: where it ends",
            Self::Epoch => "Where this region may not append or hand out: the epoch in force here",
            Self::Fork => "Where a resume token is of a branch that lost: the newest position that both share; 0: none",
            Self::Pruned => "Where positions are in the archive, which is not read here: the newest of them",
            Self::Checkpoint => "Where a view has not come to the wanted position in time: where it stands",
        }
    }
}
