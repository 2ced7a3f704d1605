// pgjdbc against a server: java -cp postgresql.jar:. Check URL. Ends with 0 if all is well.
import java.math.BigDecimal;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

public class Check {
    static void equal(Object found, Object expected) {
        if (!String.valueOf(expected).equals(String.valueOf(found))) {
            throw new AssertionError("found " + found + ", expected " + expected);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> out = new ArrayList<>();
        while (rows.next()) out.add(rows.getString(name));
        return out;
    }

    static void writes(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute("CREATE TABLE parent(id SERIAL PRIMARY KEY, name VARCHAR(20) UNIQUE)");
            s.execute("CREATE TABLE j(id SERIAL PRIMARY KEY, a INT NOT NULL, b VARCHAR(20) UNIQUE,"
                + " at TIMESTAMPTZ DEFAULT now(), n NUMERIC(10,2), ok BOOLEAN, raw BYTEA,"
                + " parent_id INT REFERENCES parent(id))");
        }
        try (PreparedStatement p = c.prepareStatement(
                "INSERT INTO j(a, b, n, ok, raw) VALUES (?, ?, ?, ?, ?)",
                Statement.RETURN_GENERATED_KEYS)) {
            p.setInt(1, 5);
            p.setString(2, "x");
            p.setBigDecimal(3, new BigDecimal("1.5"));
            p.setBoolean(4, true);
            p.setBytes(5, new byte[] {0, -1});
            equal(p.executeUpdate(), 1);
            ResultSet keys = p.getGeneratedKeys();
            keys.next();
            equal(keys.getLong(1), 1);
        }
        try (PreparedStatement p = c.prepareStatement("INSERT INTO j(a, b) VALUES (?, ?)")) {
            for (int i = 0; i < 100; i++) {
                p.setInt(1, i);
                p.setString(2, "b" + i);
                p.addBatch();
            }
            equal(p.executeBatch().length, 100);
        }
        try (PreparedStatement p = c.prepareStatement("UPDATE j SET at = ?, n = ? WHERE id = ?")) {
            p.setTimestamp(1, new Timestamp(1000));
            p.setBigDecimal(2, new BigDecimal("3.25"));
            p.setLong(3, 1);
            equal(p.executeUpdate(), 1);
        }
    }

    static void reads(Connection c) throws SQLException {
        String sql = "SELECT id, a, b, at, n, ok, raw FROM j WHERE a >= ? AND b LIKE ? ORDER BY id";
        try (PreparedStatement p = c.prepareStatement(sql)) {
            for (int i = 0; i < 8; i++) { // the sixth is a prepared one, and binary
                p.setInt(1, i);
                p.setString(2, "b%");
                ResultSet rows = p.executeQuery();
                int count = 0;
                while (rows.next()) {
                    equal(rows.getInt("a"), i + count);
                    equal(rows.getLong("id"), i + count + 2);
                    equal(rows.getTimestamp("at") != null, true);
                    equal(rows.getBigDecimal("n"), null);
                    count++;
                }
                equal(count, 100 - i);
            }
        }
        try (Statement s = c.createStatement()) {
            ResultSet row = s.executeQuery("SELECT at, n, ok, raw FROM j WHERE id = 1");
            row.next();
            equal(row.getTimestamp(1).getTime(), 1000);
            equal(row.getBigDecimal(2), "3.25");
            equal(row.getBoolean(3), true);
            equal(row.getBytes(4).length, 2);
        }
        Array numbers = c.createArrayOf("int4", new Object[] {1, 2, 3});
        String any = "SELECT count(*) FROM j WHERE a = ANY(?)";
        try (PreparedStatement p = c.prepareStatement(any)) {
            p.setArray(1, numbers);
            ResultSet row = p.executeQuery();
            row.next();
            equal(row.getInt(1), 3);
            ResultSetMetaData meta = p.getMetaData();
            equal(meta.getColumnTypeName(1), "int8");
        }
    }

    static void transactions(Connection c) throws SQLException {
        c.setAutoCommit(false);
        try (PreparedStatement p = c.prepareStatement("SELECT * FROM j")) {
            p.setFetchSize(10);
            ResultSet rows = p.executeQuery();
            int count = 0;
            while (rows.next()) count++;
            equal(count, 101);
        }
        c.commit();
        try (Statement s = c.createStatement()) {
            Savepoint point = c.setSavepoint();
            try {
                s.execute("INSERT INTO j(a, b) VALUES (1, 'b1')");
                throw new AssertionError("a double key was taken");
            } catch (SQLException error) {
                equal(error.getSQLState(), "23505");
            }
            c.rollback(point);
            s.execute("DELETE FROM j WHERE id > 50");
        }
        c.rollback();
        c.setAutoCommit(true);
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        c.setReadOnly(true);
        c.setReadOnly(false);
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(1);
            try {
                s.executeQuery("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
                    + " SELECT max(x) FROM c");
                throw new AssertionError("an endless query ended");
            } catch (SQLException error) {
                equal(error.getSQLState(), "57014");
            }
        }
    }

    static void metadata(Connection c) throws SQLException {
        DatabaseMetaData m = c.getMetaData();
        equal(m.getDatabaseProductName(), "PostgreSQL");
        equal(m.getDatabaseMajorVersion(), 17);
        String[] tables = {"TABLE"};
        equal(column(m.getTables(null, "public", "%", tables), "TABLE_NAME"), "[j, parent]");
        equal(column(m.getColumns(null, null, "j", null), "TYPE_NAME"),
            "[int4, int4, varchar, timestamptz, numeric, bool, bytea, int4]");
        equal(column(m.getColumns(null, null, "j", "id"), "IS_AUTOINCREMENT"), "[YES]");
        equal(column(m.getColumns(null, null, "j", "a"), "IS_NULLABLE"), "[NO]");
        equal(column(m.getPrimaryKeys(null, null, "j"), "COLUMN_NAME"), "[id]");
        equal(column(m.getIndexInfo(null, null, "j", true, true), "COLUMN_NAME"), "[b, id]");
        equal(column(m.getImportedKeys(null, null, "j"), "PKTABLE_NAME"), "[parent]");
        equal(column(m.getExportedKeys(null, null, "parent"), "FKTABLE_NAME"), "[j]");
        equal(column(m.getSchemas(), "TABLE_SCHEM").contains("public"), true);
        equal(column(m.getBestRowIdentifier(null, null, "j", 0, true), "COLUMN_NAME"), "[id]");
        equal(column(m.getTypeInfo(), "TYPE_NAME").contains("int8"), true);
        m.getCatalogs().close();
        m.getTableTypes().close();
        m.getFunctions(null, null, null).close();
        m.getProcedures(null, null, null).close();
        m.getTablePrivileges(null, null, "j").close();
        m.getColumnPrivileges(null, null, "j", null).close();
        m.getCrossReference(null, null, "parent", null, null, "j").close();
        m.getUDTs(null, null, null, null).close();
    }

    public static void main(String[] arguments) throws Exception {
        Properties options = new Properties();
        options.put("user", "ha");
        options.put("password", "ha");
        options.put("reWriteBatchedInserts", "true");
        try (Connection c = DriverManager.getConnection(arguments[0], options)) {
            writes(c);
            reads(c);
            transactions(c);
            metadata(c);
        }
        System.out.println("all is well");
    }
}
