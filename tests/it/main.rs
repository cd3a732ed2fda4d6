//! Behaviour as users see it: requests in, answers and samples out.

#![cfg(test)]
#![allow(
    unreachable_pub,
    reason = "nothing uses a test from outside, and `pub` tells what a module offers the others"
)]

mod administration;
mod alerting;
mod api;
mod attacks;
mod backup;
mod config;
mod connections;
mod crash;
mod dashboards;
mod demo;
mod deployment;
mod docs;
#[cfg(feature = "etcd")]
mod etcd_cluster;
mod exposition;
mod faults;
mod first_alert;
mod import;
mod law;
#[cfg(feature = "etcd")]
mod link;
mod machine;
mod memory;
mod pages;
mod parsers;
mod power;
mod privacy;
mod providers;
mod proxy;
mod readme;
#[cfg(feature = "etcd")]
mod replicas;
mod scrape;
mod smuggling;
mod soak;
mod storage;
mod support;
mod systemd;
mod tls;
mod toolkit;
mod verbs;
mod victoria;
mod webhook;
