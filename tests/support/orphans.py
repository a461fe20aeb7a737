"""An agent that kills its supervisor and then asks at the control socket, as a program to run.

Its arguments are the socket, a file for the answer (first line: the pid that asked), and how what is
left comes to be: ``daemon`` forks twice, ``child`` once, ``immune`` outlives its parent itself.
"""

HOSTILE = """
import ctypes, os, signal, socket, sys, time
path, answer, how = sys.argv[1:]
boss = os.getppid()

def ask():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        s.sendall(f"DELETE /processes/{agent} HTTP/1.0\\r\\nhost: x\\r\\n\\r\\n".encode())
        said = b""
        while more := s.recv(65536):
            said += more
    with open(answer + ".tmp", "wb") as file:
        file.write(f"{os.getpid()}\\n".encode() + said)
    os.rename(answer + ".tmp", answer)
    time.sleep(60)

agent = os.getpid()
if how == "immune":
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: nobody's death ends us
else:
    if os.fork():
        time.sleep(60)
    os.setsid()
    if how == "daemon" and os.fork():
        os._exit(0)
    while how == "daemon" and os.getppid() != boss:
        time.sleep(0.01)
before = os.getppid()
os.kill(boss, signal.SIGKILL)
while os.getppid() == before:
    time.sleep(0.001)
ask()
"""
