//! Behaviour as users see it: requests in, answers and samples out.

#![allow(unreachable_pub, reason = "a test crate has no outside")]

mod docs;
mod readme;
mod support;
