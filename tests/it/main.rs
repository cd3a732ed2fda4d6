//! Behaviour as users see it: requests in, answers and samples out.

mod support;
