// node-postgres against a server: node check.js PORT. Ends with 0 if all is as it should be.
'use strict'
const assert = require('node:assert/strict')
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')

const options = {
  host: '127.0.0.1', port: Number(process.argv[2]), user: 'ha', password: 'ha', database: 'ha'
}

async function queries (client) {
  await client.query(`CREATE TABLE n(id SERIAL PRIMARY KEY, a INT, b TEXT, ok BOOLEAN,
    at TIMESTAMPTZ DEFAULT now(), doc JSONB, raw BYTEA, price NUMERIC)`)
  const put = await client.query(
    'INSERT INTO n(a, b, ok, doc, raw, price) VALUES ($1, $2, $3, $4, $5, $6) RETURNING *',
    [1, 'x', true, { a: [1] }, Buffer.from([0, 255]), '1.5'])
  assert.equal(put.command, 'INSERT')
  assert.equal(put.rowCount, 1)
  const row = put.rows[0]
  assert.equal(row.id, '1') // int8 is a string to this driver
  assert.equal(row.ok, true)
  assert.deepEqual(row.doc, { a: [1] })
  assert.deepEqual(row.raw, Buffer.from([0, 255]))
  assert.equal(row.price, '1.5')
  assert.ok(Math.abs(row.at - Date.now()) < 60_000)

  const named = { name: 'get', text: 'SELECT b FROM n WHERE a = $1 AND b LIKE $2' }
  for (let i = 0; i < 3; i++) {
    const got = await client.query({ ...named, values: [1, 'x%'] })
    assert.deepEqual(got.rows, [{ b: 'x' }])
  }
  const any = await client.query('SELECT count(*)::int AS n FROM n WHERE a = ANY($1)', [[1, 2]])
  assert.deepEqual(any.rows, [{ n: '1' }])
  const two = await client.query('SELECT 1 AS a; SELECT 2 AS b')
  assert.deepEqual(two.map(r => r.rows), [[{ a: '1' }], [{ b: '2' }]])
  const array = await client.query({ text: 'SELECT a, b FROM n', rowMode: 'array' })
  assert.deepEqual(array.rows, [['1', 'x']])
  assert.deepEqual((await client.query('SELECT NULL AS empty')).rows, [{ empty: null }])
}

async function errors (client) {
  await assert.rejects(client.query('SELEKT 1'), { code: '42601', position: '1' })
  await assert.rejects(client.query('SELECT * FROM unknown_table WHERE a = $1', [1]), { code: '42P01' })
  await assert.rejects(client.query('INSERT INTO n(id) VALUES (1)'), { code: '23505' })
  await client.query('BEGIN')
  await client.query('INSERT INTO n(a) VALUES (2)')
  await assert.rejects(client.query('SELEKT'))
  await assert.rejects(client.query('SELECT 1'), { code: '25P02' })
  await client.query('ROLLBACK')
  assert.deepEqual((await client.query('SELECT count(*) AS n FROM n')).rows, [{ n: '1' }])
}

async function cursors (client) {
  const cursor = client.query(
    new Cursor('SELECT value FROM generate_series(1, 10) WHERE value > $1', [2]))
  assert.equal((await cursor.read(3)).length, 3)
  assert.equal((await cursor.read(100)).length, 5)
  assert.equal((await cursor.read(100)).length, 0)
  await cursor.close()
  assert.deepEqual((await client.query('SELECT 1 AS one')).rows, [{ one: '1' }])
}

async function pools () {
  const pool = new Pool({ ...options, max: 4 })
  const found = await Promise.all([...Array(40).keys()].map(
    i => pool.query('SELECT CAST($1 AS INTEGER) AS i', [i])))
  assert.deepEqual(found.map(r => Number(r.rows[0].i)), [...Array(40).keys()])
  await pool.end()
}

async function main () {
  const client = new Client(options)
  await client.connect()
  await queries(client)
  await errors(client)
  await cursors(client)
  await client.end()
  await pools()
  console.log('all is well')
}

main().catch(error => { console.error(error); process.exit(1) })
