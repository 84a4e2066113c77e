package org.example;

public final class Greeting {
    public static void main(String[] arguments) {
        System.out.println("hello from Java");
    }
}
