// SPDX-License-Identifier: MIT OR Apache-2.0
//! What all workers share: the time they have, what they have done, and where each stands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::Result;
use fastrand::Rng;

pub struct Stage {
    deadline: Instant,
    stopped: AtomicBool,
    counts: Mutex<BTreeMap<String, u64>>,
    posts: Mutex<Vec<Arc<Post>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|err| err.into_inner())
}

impl Stage {
    pub fn new(length: Duration) -> Stage {
        Stage {
            deadline: Instant::now() + length,
            stopped: AtomicBool::new(false),
            counts: Mutex::default(),
            posts: Mutex::default(),
        }
    }

    /// There is time left, and nothing has failed.
    pub fn goes_on(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst) && Instant::now() < self.deadline
    }

    /// Something has failed: everybody is to come to an end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    pub fn count(&self, what: &str, n: u64) {
        *lock(&self.counts).entry(what.to_owned()).or_default() += n;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        lock(&self.counts).clone()
    }

    fn post(&self, name: &str) -> Arc<Post> {
        let post = Arc::new(Post {
            name: name.to_owned(),
            doing: Mutex::new(("begins".to_owned(), Instant::now())),
        });
        lock(&self.posts).push(post.clone());
        post
    }

    /// Whoever has done nothing new for longest: name, what it does, and since when.
    pub fn slowest(&self) -> (String, String, Duration) {
        let posts = lock(&self.posts);
        let slowest = posts
            .iter()
            .max_by_key(|post| lock(&post.doing).1.elapsed());
        slowest.map_or_else(Default::default, |post| {
            let doing = lock(&post.doing);
            (post.name.clone(), doing.0.clone(), doing.1.elapsed())
        })
    }
}

/// Where a worker stands.
pub struct Post {
    name: String,
    doing: Mutex<(String, Instant)>,
}

/// One worker: it has devices of its own, one after the other, and random numbers of its own.
pub struct Worker<'a> {
    pub stage: &'a Stage,
    pub rng: Rng,
    pub name: String,
    post: Arc<Post>,
}

impl<'a> Worker<'a> {
    pub fn new(stage: &'a Stage, name: &str, rng: Rng) -> Worker<'a> {
        Worker {
            stage,
            rng,
            name: name.to_owned(),
            post: stage.post(name),
        }
    }

    /// A helper of this worker, with a post of its own.
    pub fn helper(&mut self, what: &str) -> Worker<'a> {
        Worker::new(
            self.stage,
            &format!("{}/{what}", self.name),
            self.rng.fork(),
        )
    }

    /// From now on it does this; whoever says nothing for long hangs.
    pub fn does(&self, what: &str) {
        *lock(&self.post.doing) = (what.to_owned(), Instant::now());
    }

    /// Does something that is counted once it is done.
    pub fn event(&mut self, what: &str, act: impl FnOnce(&mut Rng) -> Result<()>) -> Result<()> {
        self.does(what);
        act(&mut self.rng)?;
        self.stage.count(what, 1);
        Ok(())
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(..from.len())]
    }

    /// Sleeps for at most so many milliseconds.
    pub fn pause(&mut self, most: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.u64(..most)));
    }

    /// How long the next device lives.
    pub fn span(&mut self) -> Duration {
        let left = self
            .stage
            .deadline
            .saturating_duration_since(Instant::now());
        Duration::from_secs(self.rng.u64(5..35)).min(left)
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        // Who has left does not hang.
        lock(&self.stage.posts).retain(|post| !Arc::ptr_eq(post, &self.post));
    }
}
