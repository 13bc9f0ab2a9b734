//! Follow, cosign, mirror, fence, switch over and fail over.
