//! Consumer groups on PostgreSQL: which events of a group are handed out, wait or are parked. It reads no event and writes
//! none: only positions. Takes of a group follow each other under its row lock; settlements lock their own rows alone.
//! All times are the database's: several servers hand out the same group.

mod rows;

use async_trait::async_trait;
use domain::append::Role;
use domain::group::{
    ConsumerGroups, ConsumerName, Created, Extended, GROUPS_MAX, Group, GroupError, GroupName, GroupSettings,
    GroupStatus, Idle, LAPSED_REASON, Lease, LeaseNumber, Listed, Listing, NewGroup, PARKED_MAX, Parked, Settled,
    Settlement, Start, Take, Which, check_settlements,
};
use domain::{Epoch, Head};
use sqlx::postgres::Postgres;
use sqlx::{Row as _, pool::PoolConnection};

use crate::error::{Trouble, chain, trouble};
use crate::instant::Instant;
use crate::log::PgLog;
use crate::sessions::Sessions;
use rows::{Outcomes, group, idle, lease, parked, settled, status};

/// An error before anything was sent, or of a statement that only reads.
fn unread(error: sqlx::Error) -> GroupError {
    let reason = chain(&error);
    match trouble(&error) {
        Trouble::Damage => GroupError::Corrupt { reason },
        _ => GroupError::Unavailable { reason },
    }
}

/// An error of a statement that writes: with the connection its answer is lost.
fn unwritten(error: sqlx::Error) -> GroupError {
    match trouble(&error) {
        Trouble::Lost => GroupError::Indeterminate { reason: chain(&error) },
        _ => unread(error),
    }
}

/// Each wait after a failure, from the first on.
fn waits(settings: &GroupSettings) -> Vec<i64> {
    (1..=settings.attempts_max).map(|failed| i64::from(settings.retry_seconds(failed))).collect()
}

fn attempts_max(settings: &GroupSettings) -> i32 {
    i32::try_from(settings.attempts_max).unwrap_or(i32::MAX)
}

fn bigint(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn missing(group: &Group) -> GroupError {
    GroupError::NotFound { name: group.name().to_string() }
}

impl PgLog {
    fn pool(&self) -> &Sessions {
        &self.shared().pool
    }

    async fn session(&self) -> Result<PoolConnection<Postgres>, GroupError> {
        self.pool().acquire().await.map_err(unread)
    }

    /// Whether a take has anything to do.
    async fn has_work(&self, of: &Group) -> Result<bool, GroupError> {
        let query = sqlx::query(include_str!("sql/group_look.sql")).bind(of.id.0);
        let row = query.fetch_optional(self.pool()).await.map_err(unread)?.ok_or_else(|| missing(of))?;
        let look = || Ok((row.try_get::<String, _>("role")?, row.try_get("epoch")?, row.try_get("has_work")?));
        let (role, epoch, has_work): (String, i64, bool) = look().map_err(unread)?;
        match (Role::parse(&role), Epoch::from_i64(epoch)) {
            (Some(Role::Active), Some(_)) => Ok(has_work),
            (Some(role), Some(epoch)) => Err(GroupError::Fenced { role, epoch }),
            _ => Err(GroupError::Corrupt { reason: format!("the log's head says {role:?} in epoch {epoch}") }),
        }
    }

    async fn lease(&self, of: &Group, consumer: &ConsumerName, max: usize) -> Result<Option<Lease>, GroupError> {
        let settings = of.settings();
        let mut transaction = self.pool().begin().await.map_err(unread)?;
        let locked = sqlx::query(include_str!("sql/group_lock.sql")).bind(of.id.0).fetch_optional(&mut *transaction);
        locked.await.map_err(unread)?.ok_or_else(|| missing(of))?;
        sqlx::query(include_str!("sql/group_wake.sql"))
            .bind(of.id.0)
            .bind(attempts_max(settings))
            .bind(waits(settings))
            .bind(LAPSED_REASON)
            .execute(&mut *transaction)
            .await
            .map_err(unread)?;
        let rows = sqlx::query(include_str!("sql/group_pick.sql"))
            .bind(of.id.0)
            .bind(bigint(max))
            .bind(consumer.as_str())
            .bind(i64::from(settings.lease_seconds))
            .bind(LAPSED_REASON)
            .fetch_all(&mut *transaction)
            .await
            .map_err(unread)?;
        let lease = lease(&rows).map_err(unread)?;
        transaction.commit().await.map_err(unwritten)?;
        Ok(lease)
    }

    async fn idle(&self, of: &Group) -> Result<Idle, GroupError> {
        let query = sqlx::query(include_str!("sql/group_idle.sql")).bind(of.id.0).bind(bigint(PARKED_MAX));
        let row = query.fetch_optional(self.pool()).await.map_err(unread)?.ok_or_else(|| missing(of))?;
        idle(of, &row).map_err(unread)
    }

    /// Says NotFound if there is no such group: of one that is not there, nothing is parked and nothing under a lease.
    async fn known(&self, of: &Group) -> Result<(), GroupError> {
        let asked = sqlx::query("SELECT FROM coldstream.consumer_groups WHERE id = $1").bind(of.id.0);
        let row = asked.fetch_optional(self.pool()).await.map_err(unread)?;
        row.map(drop).ok_or_else(|| missing(of))
    }

    /// Runs a statement over parked rows; returns how many it has changed.
    async fn change_parked(&self, of: &Group, which: &Which, statement: &'static str) -> Result<u64, GroupError> {
        let named: Option<Vec<i64>> = match which {
            Which::All => None,
            Which::These(named) => Some(named.iter().map(|position| position.as_i64()).collect()),
        };
        let mut session = self.session().await?;
        let query = sqlx::query_scalar(statement).bind(of.id.0).bind(named);
        let changed: i64 = query.fetch_one(&mut *session).await.map_err(unwritten)?;
        drop(session);
        if changed == 0 {
            self.known(of).await?;
        }
        Ok(changed.unsigned_abs())
    }
}

#[async_trait]
impl ConsumerGroups for PgLog {
    async fn create(&self, new: &NewGroup) -> Result<Created, GroupError> {
        new.check()?;
        let head = self.shared().reader.log_head().await?;
        if head.role != Role::Active {
            return Err(GroupError::Fenced { role: head.role, epoch: head.epoch });
        }
        let from = match new.start {
            Start::Head => None,
            Start::From(position) => Some(position.as_i64()),
        };
        let settings = &new.settings;
        let mut session = self.session().await?;
        let created = sqlx::query(include_str!("sql/group_create.sql"))
            .bind(new.name.as_str())
            .bind(new.filter.categories())
            .bind(new.filter.event_types())
            .bind(new.filter.stream_prefixes())
            .bind(from)
            .bind(rows::integer(settings.lease_seconds))
            .bind(rows::integer(settings.attempts_max))
            .bind(rows::integer(settings.retry_first_seconds))
            .bind(rows::integer(settings.retry_max_seconds))
            .bind(rows::integer(settings.unsettled_max))
            .bind(bigint(GROUPS_MAX))
            .execute(&mut *session)
            .await
            .map_err(unwritten)?;
        drop(session);
        let is_new = created.rows_affected() == 1;
        match self.find(&new.name).await {
            Ok(group) if is_new => Ok(Created::New(group)),
            Ok(group) => match group.made.difference(new) {
                None => Ok(Created::Same(group)),
                Some(member) => Err(GroupError::Differs { name: new.name.to_string(), member }),
            },
            Err(GroupError::NotFound { .. }) if !is_new => match new.start {
                Start::From(position) if position > head.head.next() => Err(GroupError::Ahead { head: head.head }),
                Start::From(_) | Start::Head => Err(GroupError::TooMany),
            },
            Err(error) => Err(error),
        }
    }

    async fn find(&self, name: &GroupName) -> Result<Group, GroupError> {
        let query = sqlx::query(include_str!("sql/group_find.sql")).bind(name.as_str());
        let row = query.fetch_optional(self.pool()).await.map_err(unread)?;
        let row = row.ok_or_else(|| GroupError::NotFound { name: name.to_string() })?;
        group(&row).map_err(unread)
    }

    async fn statuses(&self) -> Result<Vec<GroupStatus>, GroupError> {
        let rows = sqlx::query(include_str!("sql/group_statuses.sql")).fetch_all(self.pool()).await.map_err(unread)?;
        rows.iter().map(status).collect::<Result<_, _>>().map_err(unread)
    }

    async fn list(&self, group: &Group, from: Head, listing: &Listing) -> Result<Listed, GroupError> {
        let positions: Vec<i64> = listing.events.iter().map(|(position, _)| position.as_i64()).collect();
        let categories: Vec<&str> = listing.events.iter().map(|(_, stream)| stream.category()).collect();
        let ids: Vec<&str> = listing.events.iter().map(|(_, stream)| stream.id()).collect();
        let mut session = self.session().await?;
        let row = sqlx::query(include_str!("sql/group_list.sql"))
            .bind(group.id.0)
            .bind(from.as_i64())
            .bind(listing.to.as_i64())
            .bind(positions)
            .bind(categories)
            .bind(ids)
            .fetch_one(&mut *session)
            .await
            .map_err(unwritten)?;
        let said = || Ok((row.try_get("stored")?, row.try_get("known")?));
        match said().map_err(unread)? {
            (true, _) => Ok(Listed::Stored),
            (false, true) => Ok(Listed::Moved),
            (false, false) => Err(missing(group)),
        }
    }

    async fn take(&self, group: &Group, consumer: &ConsumerName, max: usize) -> Result<Take, GroupError> {
        if self.has_work(group).await?
            && let Some(lease) = self.lease(group, consumer, max).await?
        {
            return Ok(Take::Lease(lease));
        }
        self.idle(group).await.map(Take::Nothing)
    }

    async fn settle(
        &self,
        group: &Group,
        lease: LeaseNumber,
        events: &[Settlement],
    ) -> Result<Vec<Settled>, GroupError> {
        check_settlements(events)?;
        let settings = group.settings();
        let outcomes = Outcomes::of(events);
        let mut session = self.session().await?;
        let rows = sqlx::query(include_str!("sql/group_settle.sql"))
            .bind(group.id.0)
            .bind(lease.as_i64())
            .bind(outcomes.positions)
            .bind(outcomes.words)
            .bind(outcomes.after_seconds)
            .bind(attempts_max(settings))
            .bind(waits(settings))
            .bind(outcomes.reasons)
            .fetch_all(&mut *session)
            .await
            .map_err(unwritten)?;
        drop(session);
        if rows.is_empty() {
            self.known(group).await?;
        }
        settled(events, &rows).map_err(unread)
    }

    async fn extend(&self, group: &Group, lease: LeaseNumber) -> Result<Extended, GroupError> {
        let mut session = self.session().await?;
        let row = sqlx::query(include_str!("sql/group_extend.sql"))
            .bind(group.id.0)
            .bind(lease.as_i64())
            .bind(i64::from(group.settings().lease_seconds))
            .fetch_optional(&mut *session)
            .await
            .map_err(unwritten)?
            .ok_or_else(|| missing(group))?;
        let read = || {
            let deadline: Option<Instant> = row.try_get("deadline")?;
            let events: i64 = row.try_get("events")?;
            Ok(Extended { events: events.unsigned_abs(), deadline: deadline.map(|at| at.0) })
        };
        read().map_err(unread)
    }

    async fn parked(&self, group: &Group, after: Head, limit: usize) -> Result<Vec<Parked>, GroupError> {
        let query = sqlx::query(include_str!("sql/group_parked.sql"));
        let query = query.bind(group.id.0).bind(after.as_i64()).bind(bigint(limit));
        let rows = query.fetch_all(self.pool()).await.map_err(unread)?;
        if rows.is_empty() {
            self.known(group).await?;
        }
        rows.iter().map(parked).collect::<Result<_, _>>().map_err(unread)
    }

    async fn replay(&self, group: &Group, which: &Which) -> Result<u64, GroupError> {
        self.change_parked(group, which, include_str!("sql/group_replay.sql")).await
    }

    async fn discard(&self, group: &Group, which: &Which) -> Result<u64, GroupError> {
        self.change_parked(group, which, include_str!("sql/group_discard.sql")).await
    }

    async fn remove(&self, group: &Group) -> Result<(), GroupError> {
        // Waits for the take that has the group's row; its events' rows go with it.
        let query = sqlx::query("DELETE FROM coldstream.consumer_groups WHERE id = $1").bind(group.id.0);
        let mut session = self.session().await?;
        query.execute(&mut *session).await.map(drop).map_err(unwritten)
    }
}
