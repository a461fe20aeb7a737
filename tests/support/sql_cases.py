"""Statements of a small CRM: those that are read, with what they touch, and those that are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TABLES = {
    "crm.customer": ("id", "name", "card"),
    "crm.invoice": ("id", "customer", "cents"),
    "crm.Odd Name": ("Id",),
}
CUSTOMER = ("card", "id", "name")


@dataclass(frozen=True)
class Case:
    """A statement, the columns it reads (`c.` is customer's, `i.` invoice's) and writes."""

    sql: str
    reads: str = ""
    writes: str = ""
    parameters: tuple[Any, ...] = ()

    @staticmethod
    def full(short: str) -> tuple[str, ...]:
        names = {"c": "crm.customer", "i": "crm.invoice", "o": "crm.Odd Name"}
        return tuple(sorted(f"{names[each[0]]}.{each[2:]}" for each in short.split()))


READ = (
    Case("select * from customer", "c.id c.name c.card"),
    Case("SELECT c.* FROM crm.Customer AS c", "c.id c.name c.card"),
    Case('select "Id" from crm."Odd Name"', "o.Id"),
    Case(
        "select count(*), max(c.id) from customer c join invoice i on i.customer = c.id "
        "where name like 'a%' group by card having count(*) > 1 order by 1",
        "c.id c.name c.card i.customer",
    ),
    Case("with customer as (select id from crm.customer) select * from customer", "c.id"),
    Case("with x(a) as (select card from customer) select a from x", "c.card"),
    Case(
        "with a as (select id from customer), b as (select id from a) select * from b", "c.id"
    ),
    Case("select t.id from (select id, name from customer) t", "c.id c.name"),
    Case(
        "select c.name from customer c join invoice i using (id)", "c.name c.id i.id"
    ),
    Case(
        "select id from customer where exists (select 1 from invoice where customer = customer.id)",
        "c.id i.customer",
    ),
    Case(
        "select (select max(cents) from invoice where invoice.customer = c.id) m from customer c",
        "i.cents i.customer c.id",
    ),
    Case("select id from customer union all select id from invoice order by id limit 3", "c.id i.id"),
    Case("select id from customer except select customer from invoice", "c.id i.customer"),
    Case("select distinct on (name) name from customer order by name, id", "c.name c.id"),
    Case("select name as card from customer order by card", "c.name"),
    Case("select name from customer order by (select max(cents) from invoice)", "c.name i.cents"),
    Case(
        "select id from customer where (id, name) in (select id, card from customer)",
        "c.id c.name c.card",
    ),
    Case("select a.id, b.name from customer a, customer b where a.id = b.id", "c.id c.name"),
    Case("select coalesce((select card from customer limit 1), 'x')", "c.card"),
    Case("select count(*) filter (where id > 1) over (partition by name) from customer",
         "c.id c.name"),
    Case("select row_number() over (order by id) from customer", "c.id"),
    Case("select percentile_cont(0.5) within group (order by cents) from invoice", "i.cents"),
    Case("select string_agg(name, ',' order by id) from customer", "c.name c.id"),
    Case("select array(select card from customer)", "c.card"),
    Case("select round(avg(cents), 2)::numeric(10,2) from invoice", "i.cents"),
    Case(
        "select now(), current_date, date_trunc('day', now()), extract(year from now()), "
        "substring(name from 1 for 2), name || 'x', id::text, position('a' in name), "
        "trim(both ' ' from name), lower(name), length(name) from customer",
        "c.name c.id",
    ),
    Case(
        "select case when id > 1 then 'a' else name end from customer "
        "where id between 1 and 2 and name is not null and not (id = $1)",
        "c.id c.name",
        parameters=(7,),
    ),
    Case("select name from customer where name ~ 'x' and name ilike 'y' or name !~* 'z'", "c.name"),
    Case("select $1::int, $2::text from customer where id = $1", "c.id", parameters=(1, "x")),
    Case("select id from customer limit 3 offset 2", "c.id"),
    Case("select 'it''s; -- not a comment', 'a\\', name from customer -- a comment", "c.name"),
    Case("select /* /* nested */ */ id from customer", "c.id"),
    Case("select date '2020-01-01' + interval '1 day'"),
    Case("select * from (values (1, 2)) v(a, b)"),
    Case("select 1;"),
    Case("select '{}'::jsonb -> 'a'"),
    Case("insert into customer (id, name) values (9, $1) returning name", "c.name", "c.id c.name",
         ("x",)),
    Case("insert into customer (id, name) select id + 100, 'x' from invoice where cents > 3 "
         "returning id", "i.id i.cents c.id", "c.id c.name"),
    Case("update customer set name = 'x', card = name where id = $1 returning *",
         "c.id c.name c.card", "c.name c.card", (1,)),
    Case("update crm.customer as c set name = (select max(card) from customer) where c.id in "
         "(select customer from invoice) returning c.card", "c.card c.id i.customer", "c.name"),
    Case("update customer set name = 'x'", "", "c.name"),
    Case("delete from customer c where c.id = 3 returning name", "c.id c.name"),
)  # fmt: skip

REFUSED = (
    # a whole row, a field of a row, a column that is not named
    "select c from customer c",
    "select customer from customer",
    "select count(c) from customer c",
    "select row_to_json(c) from customer c",
    "select jsonb_agg(c.*) from customer c",
    "select count(c.*) from customer c",
    "select (c.*)::text from customer c",
    "select id from customer c where c.* is null",
    "select (customer).card from customer",
    "select c.name.card from customer c",
    "select * from customer natural join invoice",
    "select a from customer c(a, b, d)",
    "select a.b.c from customer",
    "select id from customer, invoice",
    "select name n from customer order by lower(n)",
    "select xmin, ctid from customer",
    "select tableoid from customer",
    'select id from "Customer"',
    'select "ID" from customer',
    # tables that are not the connection's
    "select * from pg_catalog.pg_authid",
    "select * from pg_user",
    "select * from information_schema.tables",
    "select * from other.customer",
    "select * from other.crm.customer",
    "delete from nope",
    "with customer as (select 1 as id) select id from crm.nope",
    # functions
    "select pg_read_file('x')",
    "select \"pg_read_file\"('x')",
    "select pg_catalog.pg_read_file('x') from customer",
    "select * from pg_read_file('x')",
    "select * from dblink('x', 'y') as t(a int)",
    "select * from generate_series(1, 10)",
    "select lo_import('/etc/passwd')",
    "select nextval('x')",
    "select set_config('a', 'b', false)",
    "select current_setting('a')",
    "select pg_sleep(10)",
    "select query_to_xml('select 1', true, true, '')",
    "select repeat('x', 1000000000)",
    "select random()",
    "select current_user",
    "select crm.power()",
    "select lower(pg_read_file('x'))",
    "select id from customer order by pg_sleep(1)",
    "select count(*) filter (where pg_sleep(1) is null) from customer",
    "select sum(id) over (order by pg_sleep(1)) from customer",
    "update customer set name = pg_read_file('x')",
    "insert into customer (name) values (pg_read_file('x'))",
    "delete from customer returning pg_sleep(1)",
    "select 'x'::regclass",
    "select 'pg_authid'::regclass::oid",
    "select cast(id as foo.bar) from customer",
    "select xmlparse(document 'x')",
    "select 1 operator(pg_catalog.+) 2",
    "select 'a' collate \"C\"",
    # statements within, beside and beyond
    "with a as (delete from customer returning *) select * from a",
    "with a as (insert into customer (id) values (1) returning id) select * from a",
    "with recursive a as (select 1 as n union all select n + 1 from a) select * from a",
    "select 1; select 2",
    "select 1; drop table customer",
    "select id into x from customer",
    "select id from customer for update",
    "select id from customer for share of customer",
    "select id from customer tablesample system (1)",
    "select * from customer c, lateral (select c.card) x",
    "select id from customer group by rollup(id)",
    "select name, row_number() over w from customer window w as (order by id)",
    "merge into customer using invoice on true when matched then delete",
    "insert into customer values (1)",
    "insert into customer default values",
    "insert into customer (id) values ((select max(id) from invoice))",
    "insert into customer (id) values (1) on conflict (id) do update set name = excluded.card",
    "insert into customer (nope) values (1)",
    "update customer set nope = 1",
    "update customer set (id, name) = (1, 'x')",
    "update customer set name = i.cents from invoice i",
    "delete from customer using invoice where true",
    "delete from customer where current of c",
    "copy customer to program 'x'",
    "copy customer to stdout",
    "copy (select 1) to '/tmp/x'",
    "do $$begin end$$",
    "set role x",
    "reset role",
    "set session authorization x",
    "explain select 1",
    "explain analyze delete from customer",
    "lock table customer",
    "call f()",
    "truncate customer",
    "drop table customer",
    "alter table customer add x int",
    "create table x (id int)",
    "create function f() returns int language sql as 'select 1'",
    "grant select on customer to public",
    "begin",
    "commit",
    "listen x",
    "notify x",
    "vacuum",
    "prepare x as select 1",
    "execute x",
    "declare c cursor for select 1",
    "fetch all from c",
    "show all",
    "load 'x'",
    # text that can be read in two ways
    "select e'a\\'b' from customer",
    "select U&'\\0061' from customer",
    "select id from customer where card = :x",
    "select id from customer where card = ?",
    "select $1, $3",
    "select $0",
    "select 'unclosed",
    'select "unclosed',
    "select $$unclosed",
    "select 1 /* unclosed",
    "select 1 \x00",
    "",
    ";",
    "-- only this",
    "not sql at all",
)
